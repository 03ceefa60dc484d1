"""Shares of the patients, and how they are parsed."""

import numpy as np
import pytest

from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.sharding import Share, imbalance, parse_share, share_of

SHARES = [3, 0, 0, 1, 3, 3, 2, 1]


def test_a_patients_share_depends_only_on_its_id() -> None:
    """The shares must never change, because other processes, perhaps of other versions, must agree."""
    assert [share_of(f"P{number}", 4) for number in range(8)] == SHARES
    counts = np.bincount([share_of(f"P{number}", 8) for number in range(8000)])
    assert len(counts) == 8 and counts.min() > 850
    assert imbalance([("a", 5)], 4) == 4.0 and imbalance([], 3) == 0.0


RANKS = {"RANK": "1", "WORLD_SIZE": "4"}


ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5"}


TASKS = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}


@pytest.mark.parametrize(
    ("text", "environment", "share"),
    [
        ("1/1", {}, Share(0, 1)),
        ("3/8", RANKS, Share(2, 8)),
        ("auto", RANKS, Share(1, 4)),
        ("auto", RANKS | ARRAY, Share(1, 4)),
        ("auto", ARRAY | TASKS, Share(2, 3)),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2"}, Share(2, 3)),
        ("auto", TASKS, Share(2, 3)),
    ],
)
def test_parse_share(text: str, environment: dict[str, str], share: Share) -> None:
    """From the user, torchrun, a Slurm array, or the tasks of a Slurm job, in this order."""
    assert parse_share(text, environment) == share


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/4", {}, "I from 1 to N"),
        ("5/4", {}, "I from 1 to N"),
        ("1/0", {}, "I from 1 to N"),
        ("half", {}, "I from 1 to N"),
        ("auto", {}, "neither by torchrun"),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_ID": "9"}, "array with gaps"),
    ],
)
def test_impossible_shares_are_refused(text: str, environment: dict[str, str], message: str) -> None:
    """With advice."""
    with pytest.raises(UsageError, match=message):
        parse_share(text, environment)
