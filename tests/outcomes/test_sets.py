"""Sets by which a model abstains: what they contain, what they are called, and how they are calibrated."""

from collections.abc import Sequence

import numpy as np
import pytest

from mil_toolkit.evaluation.conformal import HeldOutScores
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.sets import PredictionSets
from mil_toolkit.outcomes.survival import Survival

NAMES = ("AML", "ALL", "CLL")
LABELS = np.array([0, 1, 2] * 40)
UNITS = np.arange(len(LABELS))
SHARES = np.random.default_rng(0).dirichlet([2, 1, 1], size=len(LABELS))
TARGETS = np.random.default_rng(1).uniform(1, 50, size=len(LABELS))
CASES: list[tuple[Outcome, np.ndarray, np.ndarray]] = [
    (Binary(), SHARES[:, 0], LABELS % 2),
    (Classes(classes=NAMES), SHARES, LABELS),
    (Ordered(classes=NAMES), SHARES, LABELS),
    (Number(target="BLASTS"), TARGETS + SHARES[:, 0], TARGETS),
    (Number(target="BLASTS", transform="log"), TARGETS + SHARES[:, 0], TARGETS),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].kind)


def sets_of(outcome: Outcome) -> PredictionSets:
    assert outcome.sets is not None
    return outcome.sets


def columns_of(
    sets: PredictionSets, known: Sequence[HeldOutScores], values: np.ndarray
) -> dict[str, list[object]]:
    return {name: list(column) for name, column in sets.columns(known, values, 0.2).items()}


@every_case
def test_a_calibration_has_the_scores_of_each_class_or_of_all_patients(
    case: tuple[Outcome, np.ndarray, np.ndarray],
) -> None:
    outcome, values, targets = case
    sets = sets_of(outcome)
    known = sets.held_out(values, targets, UNITS)
    assert len(known) == max(1, len(sets.names)) and sum(scores.units for scores in known) == len(targets)
    assert len(sets.names) == len(outcome.stratum_names) == len(outcome.class_names)


@every_case
def test_what_the_columns_contain_is_what_counts_as_covered(
    case: tuple[Outcome, np.ndarray, np.ndarray],
) -> None:
    outcome, values, targets = case
    sets = sets_of(outcome)
    known = sets.held_out(values, targets, UNITS)
    columns, covered = columns_of(sets, known, values), sets.covered(known, values, targets, 0.2)
    if sets.names:
        named = [[*sets.names] if text == "either" else str(text).split(" | ") for text in columns["set"]]
        inside = [sets.names[int(label)] in names for label, names in zip(targets, named, strict=True)]
        several = [len(names) > 1 for names in named]
    else:
        low, high = np.array(columns["set_low"]), np.array(columns["set_high"])
        slack = 1e-9 * targets  # an end may be the target that it was calibrated on
        inside = ((low - slack <= targets) & (targets <= high + slack)).tolist()
        several = [False] * len(targets)
    assert covered.inside.tolist() == inside and covered.several.tolist() == several
    assert 0.8 <= np.mean(inside) < 1


@every_case
def test_too_few_patients_are_named_in_a_sentence(case: tuple[Outcome, np.ndarray, np.ndarray]) -> None:
    outcome, values, targets = case
    sets = sets_of(outcome)
    enough, few = (sets.held_out(values[:count], targets[:count], UNITS[:count]) for count in (120, 3))
    assert not list(sets.shortages(enough, 0.2))
    lines = list(sets.shortages(few, 0.2))
    assert len(lines) == max(1, len(sets.names)) and all(line.startswith("Every ") for line in lines)
    assert all(name in line for name, line in zip(sets.names, lines, strict=False))


def test_survival_has_no_sets() -> None:
    assert Survival("T", "E", 3).sets is None
