"""Cut points, intervals of time, and survival curves from hazards."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from mil_toolkit.evaluation.discrete_time import (
    choose_cuts,
    hazard_rows,
    risk_at,
    survival_at,
    survival_from_logits,
    to_intervals,
)
from mil_toolkit.training.survival_losses import hazard_losses

times_and_events = st.lists(
    st.tuples(st.integers(1, 30).map(float), st.booleans()), min_size=2, max_size=40
).filter(lambda pairs: any(event for _, event in pairs))


@given(pairs=times_and_events, count=st.integers(1, 12), share=st.floats(0.05, 1))
def test_the_horizon_is_a_cut_point_among_ascending_ones(
    pairs: list[tuple[float, bool]], count: int, share: float
) -> None:
    times, events = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    horizon = share * times.max()
    cuts = choose_cuts(times, events, count, horizon)
    assert 1 <= len(cuts) <= count
    assert horizon in cuts
    assert (np.diff(cuts) > 0).all()
    assert cuts[0] > 0


def test_each_interval_has_about_as_many_events() -> None:
    times = np.random.default_rng(0).exponential(size=400)
    cuts = choose_cuts(times, np.ones(400, dtype=bool), 8, float(np.quantile(times, 0.5)))
    counts = np.bincount(to_intervals(times, np.ones(400, dtype=bool), cuts).survived, minlength=8)
    assert (np.abs(counts - 50) <= 1).all()


def test_censored_times_do_not_move_the_cut_points() -> None:
    times, events = np.array([1.0, 2.0, 3.0, 4.0, 50.0]), np.array([True, True, True, True, False])
    assert choose_cuts(times, events, 4, 2.0).max() == 4


def test_the_interval_of_a_time_is_open_at_its_start_and_closed_at_its_end() -> None:
    cuts = np.array([1.0, 2.0, 2.0])
    times = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    event = to_intervals(times, np.ones(5, dtype=bool), cuts)
    assert event.survived.tolist() == [0, 0, 1, 1, 3]
    assert event.event.tolist() == [True, True, True, True, False]
    censored = to_intervals(times, np.zeros(5, dtype=bool), cuts)
    assert censored.survived.tolist() == [0, 1, 1, 3, 3]
    assert not censored.event.any()


@given(pairs=times_and_events)
def test_the_likelihood_of_the_rows_is_that_of_the_patients(pairs: list[tuple[float, bool]]) -> None:
    times, events = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    intervals = to_intervals(times, events, choose_cuts(times, events, 4, float(times.max())))
    patient, interval, event = hazard_rows(intervals)
    logits = np.random.default_rng(0).normal(size=(len(times), 4))
    rows = np.logaddexp(0, np.where(event == 1, -1, 1) * logits[patient, interval])
    losses = hazard_losses(
        torch.from_numpy(logits)[None],
        torch.from_numpy(intervals.survived),
        torch.from_numpy(intervals.event),
    )
    np.testing.assert_allclose(np.bincount(patient, rows, len(times)), losses[0].numpy())


def test_the_survival_is_the_product_of_the_complements_of_the_hazards() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(survival_from_logits(logits), np.cumprod(1 - expit(logits), axis=-1))
    extreme = survival_from_logits(np.array([-800.0, 800.0]))
    assert extreme.tolist() == [1.0, 0.0]


def test_the_survival_falls_linearly_between_cut_points() -> None:
    cuts, survival = np.array([2.0, 4.0]), np.array([[0.8, 0.4], [0.5, 0.5]])
    found = survival_at(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0]), cuts, survival)
    np.testing.assert_allclose(found, [[1, 0.9, 0.8, 0.6, 0.4, 0.4], [1, 0.75, 0.5, 0.5, 0.5, 0.5]])


def test_of_a_repeated_cut_point_the_last_value_counts() -> None:
    cuts, survival = np.array([1.0, 3.0, 3.0]), np.array([0.9, 0.6, 0.5])
    assert survival_at(np.array([3.0]), cuts, survival)[0] == pytest.approx(0.5)
    assert survival_at(np.array([2.0]), cuts, survival)[0] == pytest.approx(0.75)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_a_curve_never_rises(logits: list[float]) -> None:
    cuts = np.array([1.0, 1.5, 4.0])
    values = survival_at(np.linspace(0, 5, 40), cuts, survival_from_logits(np.array(logits)))
    assert (np.diff(values) <= 1e-12).all()
    assert values[0] == 1


def test_the_risk_at_a_cut_point_is_one_minus_the_survival_there() -> None:
    cuts, survival = np.array([1.0, 2.0, 5.0]), np.random.default_rng(0).random((2, 4, 3))
    np.testing.assert_allclose(risk_at(2.0, cuts, survival), 1 - survival[..., 1])
