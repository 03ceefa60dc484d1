"""Paired differences of two methods' scores."""

import numpy as np
import pytest

from mil_toolkit.evaluation.measure import Measure, Scale
from mil_toolkit.evaluation.measure_differences import WIDEST, difference_interval
from mil_toolkit.evaluation.measure_intervals import Patients, Scored, influences, measure_interval
from mil_toolkit.evaluation.weighted import mean


def of_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean(values, weights)


def patients(count: int) -> Patients:
    return Patients(np.arange(count), np.zeros(count, dtype=int), None)


def method(values: np.ndarray, scale: Scale) -> Scored:
    influence = influences(lambda weights: mean(values, weights), len(values))
    value = float(values.mean())
    bounds = measure_interval(Measure(of_mean, scale), value, influence, patients(len(values)))
    return Scored(value, bounds, influence)


def test_the_interval_of_a_difference_of_means_is_that_of_the_paired_t_test() -> None:
    random = np.random.default_rng(0)
    one, other = random.random((2, 60))
    measure = Measure(of_mean, "positive")
    low, high = difference_interval(measure, method(one, "positive"), method(other, "positive"), patients(60))
    half = 2.001 * (one - other).std(ddof=1) / np.sqrt(60)
    assert (low + high) / 2 == pytest.approx((one - other).mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.01)


def test_methods_that_err_on_the_same_patients_have_a_narrower_difference() -> None:
    hits = np.arange(80) < 60
    near, far = hits & (np.arange(80) != 3), np.roll(hits, 40)
    measure = Measure(of_mean, "share")
    widths = []
    for other in (near, far):
        low, high = difference_interval(
            measure, method(hits.astype(float), "share"), method(other.astype(float), "share"), patients(80)
        )
        widths.append(high - low)
    assert 0 < widths[0] < 0.75 * widths[1]


@pytest.mark.parametrize("scale", WIDEST)
def test_a_difference_stays_in_its_range(scale: Scale) -> None:
    one, other = method(np.ones(4), scale), method(np.array([0.0, 0, 0, 1]), scale)
    low, high = difference_interval(Measure(of_mean, scale), one, other, patients(4))
    assert -WIDEST[scale] <= low <= one.value - other.value <= high <= WIDEST[scale]


def test_the_two_directions_mirror_each_other() -> None:
    random = np.random.default_rng(1)
    one, other = (method(random.random(30), "share") for _ in range(2))
    measure = Measure(of_mean, "share")
    low, high = difference_interval(measure, one, other, patients(30))
    np.testing.assert_allclose(difference_interval(measure, other, one, patients(30)), [-high, -low])
