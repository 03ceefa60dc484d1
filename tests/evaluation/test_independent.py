"""The difference of scores on different patients: a published example, symmetry, and what is not known."""

import pytest

from mil_toolkit.evaluation.bounds import wilson
from mil_toolkit.evaluation.independent import independent_difference
from mil_toolkit.evaluation.records import Estimate


def proportion(successes: int, count: int) -> Estimate:
    low, high, _ = wilson(successes / count, count, 1.959964)
    return Estimate(successes / count, low, high)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_proportions_have_the_intervals_of_newcombe(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, "Interval estimation for the difference between independent proportions", table II."""
    difference = independent_difference(proportion(*one), proportion(*other))
    assert difference.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert difference.low == pytest.approx(low, abs=1e-4)
    assert difference.high == pytest.approx(high, abs=1e-4)


def test_exchanging_the_samples_changes_the_sign() -> None:
    one, other = Estimate(0.7, 0.5, 0.8), Estimate(0.9, 0.6, 0.95)
    there, back = independent_difference(one, other), independent_difference(other, one)
    assert there.value is not None and there.low is not None and there.high is not None
    assert (back.value, back.low, back.high) == (-there.value, -there.high, -there.low)


def test_a_value_without_an_interval_gives_a_difference_without_one() -> None:
    known, bare = Estimate(0.7, 0.5, 0.8), Estimate(0.5, None, None)
    assert independent_difference(known, bare) == Estimate(0.7 - 0.5, None, None)
    assert independent_difference(known, Estimate(None, None, None)) == Estimate(None, None, None)
