"""Kaplan-Meier, censoring and log-rank by hand and against scikit-survival."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import installed

from mil_toolkit.evaluation.survival_curves import (
    StepCurve,
    at_risk,
    censoring_curve,
    kaplan_meier,
    log_rank,
    survival_curve,
)

TIMES = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0])
EVENTS = np.array([True, True, False, False, True, True, False])
seeds = given(seed=st.integers(0, 10_000))


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tied times, events (at least one of each kind) and groups of 25 patients."""
    random = np.random.default_rng(seed)
    events = random.random(25) < 0.6
    events[:2] = True, False
    return random.integers(1, 12, 25).astype(float), events, random.integers(0, 3, 25)


def test_a_step_curve_is_one_before_its_first_time_and_constant_after_its_last() -> None:
    curve = StepCurve(np.array([1.0, 3.0]), np.array([0.5, 0.2]))
    np.testing.assert_array_equal(
        curve.at(np.array([[0.0, 0.9], [1.0, 2.9], [3.0, 9.0]])), [[1, 1], [0.5, 0.5], [0.2, 0.2]]
    )


def test_the_survival_is_the_product_over_times_of_those_who_stay() -> None:
    curve = survival_curve(TIMES, EVENTS)
    assert curve.times.tolist() == [1, 2, 3, 4, 5]
    first, second = 6 / 7, 6 / 7 * 5 / 6
    np.testing.assert_allclose(curve.values, [first, second, second, second / 3, second / 3])


def test_at_equal_times_events_come_before_censoring() -> None:
    curve = censoring_curve(TIMES, EVENTS)
    np.testing.assert_allclose(curve.values, [1, 4 / 5, 4 / 5 * 3 / 4, 3 / 5, 0])


def test_without_censoring_the_survival_is_the_share_of_later_times() -> None:
    curve = survival_curve(TIMES, np.ones(7, dtype=bool))
    np.testing.assert_allclose(curve.values, [(time < TIMES).mean() for time in curve.times])
    assert (censoring_curve(TIMES, np.ones(7, dtype=bool)).values == 1).all()


def test_without_events_nobody_is_lost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = kaplan_meier(TIMES, np.zeros(7, dtype=bool))
    for values in (estimate.curve.values, estimate.low, estimate.high):
        assert (values == 1).all()
    assert censoring_curve(TIMES, np.zeros(7, dtype=bool)).values[-1] == 0


def test_the_interval_contains_the_curve_and_stays_within_zero_and_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            estimate = kaplan_meier(*drawn(seed)[:2])
            assert (estimate.low >= 0).all()
            assert (estimate.high <= 1).all()
            assert (estimate.low <= estimate.curve.values).all()
            assert (estimate.curve.values <= estimate.high).all()


def test_the_numbers_at_risk_include_those_who_leave_at_the_moment() -> None:
    assert at_risk(TIMES, [0, 1, 2, 4, 4.5, 6]) == [7, 7, 6, 3, 1, 0]


@seeds
@settings(max_examples=25)
def test_the_curve_and_its_interval_agree_with_scikit_survival(seed: int) -> None:
    library = installed("sksurv.nonparametric")
    times, events, _ = drawn(seed)
    moments, values, (low, high) = library.kaplan_meier_estimator(events, times, conf_type="log-log")
    estimate = kaplan_meier(times, events)
    np.testing.assert_array_equal(estimate.curve.times, moments)
    np.testing.assert_allclose(estimate.curve.values, values, atol=1e-14)
    inside = (values > 0) & (values < 1)
    np.testing.assert_allclose(estimate.low[inside], low[inside])
    np.testing.assert_allclose(estimate.high[inside], high[inside])


@seeds
@settings(max_examples=25)
def test_the_censoring_agrees_with_scikit_survival(seed: int) -> None:
    library = installed("sksurv.nonparametric")
    times, events, _ = drawn(seed)
    moments, values = library.kaplan_meier_estimator(events, times, reverse=True)
    np.testing.assert_allclose(censoring_curve(times, events).at(moments), values, atol=1e-14)


@seeds
@settings(max_examples=25)
def test_the_log_rank_test_agrees_with_scikit_survival(seed: int) -> None:
    library = installed("sksurv.compare")
    times, events, groups = drawn(seed)
    y = np.array(list(zip(events, times, strict=True)), dtype=[("event", bool), ("time", float)])
    statistic, p_value = library.compare_survival(y, groups)
    found = log_rank(times, events, groups)
    assert found.freedom == len(np.unique(groups)) - 1
    assert found.statistic == pytest.approx(statistic)
    assert found.p_value == pytest.approx(p_value)


def test_the_log_rank_statistic_of_two_groups_is_a_squared_standard_score() -> None:
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, True, False])
    groups = np.array(["a", "b", "a", "b"])
    expected = 2 / 4 + 1 / 3 + 1 / 2
    variance = 1 / 4 + 2 / 9 + 1 / 4
    found = log_rank(times, events, groups)
    assert found.statistic == pytest.approx((2 - expected) ** 2 / variance)


def test_the_order_of_patients_and_the_names_of_groups_do_not_matter() -> None:
    times, events, groups = drawn(3)
    order = np.random.default_rng(0).permutation(25)
    one, other = log_rank(times, events, groups), log_rank(times[order], events[order], -groups[order])
    assert one.statistic == pytest.approx(other.statistic)


@pytest.mark.parametrize(
    ("times", "events", "groups"),
    [
        ([1, 2, 3], [True, True, False], ["a", "a", "a"]),
        ([1, 2, 3], [False, False, False], ["a", "b", "a"]),
        ([1, 1, 2], [False, False, True], ["a", "a", "b"]),
    ],
)
def test_where_nothing_can_be_compared_there_is_no_statistic(
    times: list[float], events: list[bool], groups: list[str]
) -> None:
    found = log_rank(np.array(times, dtype=float), np.array(events), np.array(groups))
    assert (found.statistic, found.freedom, found.p_value) == (None, 0, None)


def test_a_group_that_left_before_the_first_event_has_no_degree_of_freedom() -> None:
    times = np.array([0.5, 0.6, 1.0, 2.0, 3.0, 4.0])
    events = np.array([False, False, True, True, True, True])
    found = log_rank(times, events, np.array(["c", "c", "a", "b", "a", "b"]))
    alone = log_rank(times[2:], events[2:], np.array(["a", "b", "a", "b"]))
    assert found.freedom == 1
    assert found.statistic == pytest.approx(alone.statistic)
