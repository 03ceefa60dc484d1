"""Closed forms of intervals, compared with SciPy, published examples and their equations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t

from mil_toolkit.evaluation.bounds import (
    Bounds,
    auc_interval,
    auc_variance,
    positive_interval,
    quantile,
    ratio,
    weighted_sum,
    wilson,
)

Z = float(norm.ppf(0.975))


def test_the_quantile_is_students() -> None:
    for freedom in (1, 7.5, 200):
        assert quantile(freedom) == pytest.approx(t.ppf(0.975, freedom))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys(counts: tuple[int, int]) -> None:
    successes, count = counts
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    low, high, variance = wilson(successes / count, count, Z)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert low <= successes / count <= high and high > low
    assert variance == pytest.approx(successes / count * (1 - successes / count) / count)


def test_a_weighted_sum_of_symmetric_intervals_has_the_usual_error() -> None:
    one, other = Bounds(0.4 - 0.2, 0.4 + 0.2, 0.01), Bounds(0.6 - 0.1, 0.6 + 0.1, 0.0025)
    for correlation in (-0.5, 0.0, 1.0):
        error = np.sqrt((0.3 * 0.2) ** 2 + (0.7 * 0.1) ** 2 + 2 * correlation * 0.3 * 0.2 * 0.7 * 0.1)
        low, high, variance = weighted_sum((0.3, 0.7), (0.4, 0.6), (one, other), correlation)
        assert (low, high) == pytest.approx((0.54 - error, 0.54 + error))
        assert variance == pytest.approx((error / 2) ** 2)


def test_the_interval_of_a_difference_agrees_with_newcombes_published_example() -> None:
    # Newcombe 1998, method 10 for 56/70 - 48/80: 0.0524 to 0.3339
    one, other = wilson(56 / 70, 70, Z), wilson(48 / 80, 80, Z)
    complement = Bounds(1 - other.high, 1 - other.low, other.variance)
    low, high, _ = weighted_sum((1.0, 1.0), (0.8, 0.4), (one, complement), 0.0)
    assert (low - 1, high - 1) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.floats(0.05, 0.95), st.floats(0.5, 0.99), st.floats(10, 300), st.floats(10, 300))
def test_the_bounds_of_a_ratio_are_where_the_difference_excludes_zero(
    one: float, other: float, first: float, second: float
) -> None:
    bounds = wilson(one, first, Z), wilson(other, second, Z)
    low, high = ratio(one, bounds[0], other, bounds[1])
    assert low <= one / other <= high
    # At the bound r, the interval of one - r * other (MOVER) ends at zero.
    upper = one - low * other
    assert (one - bounds[0].low) ** 2 + (low * (bounds[1].high - other)) ** 2 == pytest.approx(upper**2)
    lower = one - high * other
    assert (bounds[0].high - one) ** 2 + (high * (other - bounds[1].low)) ** 2 == pytest.approx(lower**2)


def test_a_ratio_of_zero_has_a_positive_upper_bound() -> None:
    low, high = ratio(0.0, wilson(0.0, 30, Z), 0.9, wilson(0.9, 40, Z))
    assert low == 0 and 0 < high < 0.2


def test_the_implied_variance_is_hanleys_and_mcneils_with_equal_class_sizes() -> None:
    auc, size = 0.9, 40
    one, other = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    expected = (auc * (1 - auc) + (size - 1) * (one - auc**2) + (size - 1) * (other - auc**2)) / size**2
    assert auc_variance(auc, np.array([[size, size]])) == pytest.approx(expected)
    assert auc_variance(auc, np.array([[size, size], [size, size]])) == pytest.approx(expected / 2)
    assert auc_variance(0.9, np.array([[50, 30]])) == pytest.approx(auc_variance(0.9, np.array([[30, 50]])))


@pytest.mark.parametrize("auc", [0.0, 0.3, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("inflation", [0.5, 3.0])
def test_the_bounds_of_an_auc_lie_the_same_number_of_their_own_errors_away(
    auc: float, inflation: float
) -> None:
    pairs = np.array([[12, 7], [11, 8]])
    low, high = auc_interval(auc, pairs, inflation, Z)
    assert 0 <= low <= auc <= high <= 1 and high - low > 0.02
    for bound in {low, high} - {0.0, 1.0, auc}:
        error = np.sqrt(inflation * auc_variance(bound, pairs))
        assert abs(bound - auc) == pytest.approx(Z * error, abs=1e-6)


def test_a_perfect_auc_has_a_width() -> None:
    low, high = auc_interval(1.0, np.array([[50, 30]]), 1.0, Z)
    assert high == 1 and 0.9 < low < 0.97
    mirrored = auc_interval(0.0, np.array([[50, 30]]), 1.0, Z)
    assert mirrored == pytest.approx((0, 1 - low), abs=0.02)


@given(st.floats(0, 5), st.floats(1e-6, 10))
def test_a_positive_value_has_a_positive_interval_around_it(value: float, half: float) -> None:
    low, high = positive_interval(value, half)
    assert 0 <= low <= value <= high and high - low > half / 2
    if half <= value:
        assert low * high == pytest.approx(value**2)
    assert positive_interval(half, half)[1] == pytest.approx(np.e * half)
