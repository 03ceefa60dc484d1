"""The variables of torchrun and Slurm."""

import pytest

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.launchers import LocalRank, local_processes, local_rank


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOCAL_RANK", "SLURM_LOCALID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)


def test_a_process_without_a_launcher_has_no_rank_and_all_cores() -> None:
    assert local_rank() is None and local_processes() == 1


def test_torchrun_counts_before_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_LOCALID", "2")
    assert local_rank() == LocalRank("SLURM_LOCALID", 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_rank() == LocalRank("LOCAL_RANK", 1)


@pytest.mark.parametrize(("text", "expected"), [("4", 4), ("0", 1)])
def test_torchrun_says_how_many_processes_share_the_machine(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    assert local_processes() == expected


@pytest.mark.parametrize("text", ["", "-1", "one", "\u00b2"])
def test_a_value_that_is_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    with pytest.raises(UsageError, match=r"LOCAL_WORLD_SIZE is .* Expected a number from 0"):
        local_processes()
