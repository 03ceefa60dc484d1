"""Groups of risk and their calibration at the horizon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.evaluation.survival_calibration import calibration_at_horizon, groups_of_risk, risk_at


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=60, unique=True))
def test_different_risks_make_groups_of_about_equal_size(risks: list[int]) -> None:
    groups = groups_of_risk(np.array(risks) / 1000, 3)
    sizes = np.bincount(groups)
    assert len(sizes) == 3
    assert sizes.max() - sizes.min() <= 2
    assert (np.diff(groups[np.argsort(risks)]) >= 0).all()


def test_equal_risks_share_a_group() -> None:
    assert groups_of_risk(np.full(9, 0.5), 3).tolist() == [0] * 9
    groups = groups_of_risk(np.array([0.1] * 8 + [0.9]), 3)
    assert groups.tolist() == [0] * 8 + [1]


def test_without_censoring_the_observed_risk_is_the_share_of_events() -> None:
    random = np.random.default_rng(0)
    times, risks = random.exponential(size=60), random.random(60)
    groups = calibration_at_horizon(times, np.ones(60, dtype=bool), risks, 1.0, count=4)
    assert [group.patients for group in groups] == [15] * 4
    places = np.argsort(risks).reshape(4, 15)
    for group, own in zip(groups, places, strict=True):
        assert group.observed.value == pytest.approx((times[own] <= 1).mean())
        assert group.predicted == pytest.approx(risks[own].mean())
        assert group.observed.low <= group.observed.value <= group.observed.high
        assert group.observed.followed_to is None


def test_the_risk_of_a_group_that_nobody_was_followed_to_the_horizon_is_marked() -> None:
    times, events = np.array([1.0, 2.0, 3.0]), np.array([True, False, False])
    (group,) = calibration_at_horizon(times, events, np.full(3, 0.2), 10.0, count=1)
    assert group.observed.value == pytest.approx(1 / 3) and group.observed.followed_to == 3
    assert risk_at(times, events & False, 10.0).followed_to == 3  # without an event


def test_a_risk_is_known_where_somebody_was_followed_to_the_horizon_or_all_had_the_event() -> None:
    times = np.array([1.0, 2.0, 3.0])
    assert risk_at(times, np.array([True, False, False]), 3.0).followed_to is None
    assert risk_at(times, np.array([True, True, True]), 10.0).followed_to is None
    assert risk_at(times, np.array([True, False, True]), 10.0).followed_to is None  # nobody is left
    assert risk_at(times, np.array([True, True, False]), 10.0).followed_to == 3


@pytest.mark.parametrize("event", [False, True])
def test_a_group_in_which_all_or_none_have_the_event_has_an_interval(event: bool) -> None:
    times, events = np.linspace(1, 9, 20), np.full(20, event)
    (group,) = calibration_at_horizon(times, events, np.full(20, 0.2), 9.0 if event else 5.0, count=1)
    risk = group.observed
    assert risk.value == float(event)
    assert (risk.low < 0.9 and risk.high == 1) if event else (risk.low == 0 and 0.1 < risk.high < 0.4)


def test_fewer_patients_at_risk_make_a_wider_interval_of_a_risk_of_zero() -> None:
    times, events = np.linspace(1, 9, 20), np.zeros(20, dtype=bool)
    highs = [risk_at(times, events, horizon).high for horizon in (1.0, 5.0, 8.9, 20.0)]
    assert highs == sorted(highs) and highs[0] < 0.2 and highs[-1] > 0.7


def test_widening_multiplies_the_variance_on_the_scale_of_the_interval() -> None:
    random = np.random.default_rng(1)
    times, events = random.exponential(size=50), random.integers(0, 2, 50) == 1

    def half_width(widening: float) -> float:
        risk = risk_at(times, events, 0.7, widening)
        assert risk.low < risk.value < risk.high
        scaled = [np.log(-np.log(1 - part)) for part in (risk.value, risk.low, risk.high)]
        assert scaled[2] - scaled[0] == pytest.approx(scaled[0] - scaled[1])
        return float(scaled[2] - scaled[0])

    assert half_width(2.25) == pytest.approx(1.5 * half_width(1.0))
    assert risk_at(times, np.zeros(50, dtype=bool), 0.7, 2.0).high > risk_at(times, events & False, 0.7).high
