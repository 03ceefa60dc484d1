"""Conformal p-values and sets: against straightforward versions, and their coverage on drawn data."""

import numpy as np
import pytest

from mil_toolkit.evaluation.conformal import HeldOutScores, class_sets, coverage_bound


def plain_p_value(scores: np.ndarray, units: np.ndarray, new: float) -> float:
    """Return the p-value by the definition: units at least as strange, the new one among them."""
    shares = [np.mean(scores[units == unit] >= new) for unit in np.unique(units)]
    return float((1 + sum(shares)) / (1 + len(shares)))


def test_hand_made_p_values() -> None:
    known = HeldOutScores.of(np.array([0.1, 0.4, 0.4, 0.9]), np.arange(4))
    np.testing.assert_allclose(known.p_values(np.array([0.0, 0.4, 0.5, 0.9, 1.0])), [1, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize("group", [1, 3])
def test_p_values_are_those_of_the_definition(group: int) -> None:
    random = np.random.default_rng(0)
    scores, units = random.integers(0, 8, 30) / 8, np.arange(30) // group
    known = HeldOutScores.of(scores, units)
    for new in np.linspace(-0.1, 1.1, 13):
        assert known.p_values(np.array([new]))[0] == pytest.approx(plain_p_value(scores, units, new))


def test_a_large_group_weighs_as_much_as_a_single_patient() -> None:
    scores = np.array([0.2, *[0.8] * 50])
    known = HeldOutScores.of(scores, np.array([0, *[1] * 50]))
    assert known.units == 2 and known.p_values(np.array([0.5]))[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.5])
def test_the_margin_is_the_largest_score_that_is_kept(alpha: float) -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1.0, 40.0))
    known = HeldOutScores.of(scores, np.arange(39))
    expected = np.sort(scores)[int(np.ceil((1 - alpha) * 40 - 1e-9)) - 1]
    assert known.margin(alpha) == expected
    kept = scores[known.p_values(scores) > alpha + 1e-9]
    assert kept.max() == expected


@pytest.mark.parametrize(
    ("units", "folds", "expected"),
    [
        (100, 5, 0.8 - 1.6 / 21),  # the first term is the smaller one
        (100, 20, 0.8 - 0.8 / 21),  # the second one
        (30, 30, 0.8),  # the jackknife+
        (3, 5, 0.8),
        (12, 2, 0.8 - 1 / 7),
    ],
)
def test_the_bound_is_that_of_the_theorem(units: int, folds: int, expected: float) -> None:
    assert coverage_bound(0.1, units, folds) == pytest.approx(expected)
    assert coverage_bound(0.5, units, folds) == 0


def test_too_few_units_exclude_nothing() -> None:
    known = HeldOutScores.of(np.zeros(8), np.arange(8))
    assert not known.suffices(0.1) and known.margin(0.1) == np.inf
    assert HeldOutScores.of(np.zeros(9), np.arange(9)).suffices(0.1)
    empty = HeldOutScores.of(np.zeros(0), np.zeros(0, dtype=int))
    assert empty.units == 0 and empty.p_values(np.array([5.0])).tolist() == [1.0]
    enough = HeldOutScores.of(np.zeros(99), np.arange(99))
    sets = class_sets([known, enough], np.full((3, 2), 1.0), 0.1)
    assert sets.tolist() == [[True, False]] * 3


def test_no_set_is_empty() -> None:
    known = HeldOutScores.of(np.linspace(0, 0.1, 99), np.arange(99))
    sets = class_sets([known, known], np.array([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]), 0.1)
    assert sets.tolist() == [[True, True], [True, False], [True, True]]


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_each_class_is_covered_on_exchangeable_data(alpha: float) -> None:
    random = np.random.default_rng(0)
    covered: dict[int, list[bool]] = {0: [], 1: []}
    for _ in range(600):
        labels = np.arange(60) % 3 // 2  # classes of 40 and 20
        scores = random.beta(2, 2 + 3 * labels)
        scores = np.stack([scores, 1 - scores], -1)
        known = [
            HeldOutScores.of(scores[labels == one, one], np.arange((labels == one).sum())) for one in (0, 1)
        ]
        new = random.integers(0, 2)
        value = random.beta(2, 2 + 3 * new)
        (inside,) = class_sets(known, np.array([[value, 1 - value]]), alpha)
        covered[new].append(bool(inside[new]))
    for flags in covered.values():
        error = 4 * np.sqrt(alpha * (1 - alpha) / len(flags))
        assert np.mean(flags) > 1 - alpha - error


def test_groups_are_covered_although_their_patients_are_alike() -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        sizes = random.integers(1, 12, 20)
        centres = random.normal(size=21)
        units = np.repeat(np.arange(20), sizes)
        scores = np.abs(centres[units] + random.normal(0, 0.1, len(units)))
        new = abs(centres[20] + random.normal(0, 0.1))
        covered.append(new <= HeldOutScores.of(scores, units).margin(0.2))
    assert np.mean(covered) > 0.8 - 4 * np.sqrt(0.16 / 400)


@pytest.mark.parametrize(
    ("scores", "weights", "units"),
    [([0.2, 0.1], [1.0, 1.0], 2), ([0.1], [1.0, 1.0], 2), ([0.1], [1.0], 2), ([float("nan")], [1.0], 1)],
)
def test_records_refuse_what_cannot_be(scores: list[float], weights: list[float], units: int) -> None:
    with pytest.raises(ValueError, match=r"ascend|add up|finite"):
        HeldOutScores(scores, weights, units)
