"""Metrics of survival by counting, by their properties, and against scikit-survival."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import installed

from mil_toolkit.evaluation.survival_curves import censoring_curve, survival_curve
from mil_toolkit.evaluation.survival_metrics import (
    SURVIVAL_METRICS,
    SurvivalPredicted,
    by_curve,
    observed_risk,
    observed_to_expected,
    uncensored,
)

MEASURES: dict[str, Callable[[SurvivalPredicted, np.ndarray], np.ndarray]] = {
    **{name: measure.of for name, measure in SURVIVAL_METRICS.items()},
    "observed_to_expected": observed_to_expected,
    "observed_risk": observed_risk,
}
every_metric = pytest.mark.parametrize("name", MEASURES)
PER_PATIENT = ("times", "events", "folds", "uncensored_then", "uncensored")
COUNT = 24


def drawn(seed: int, leading: tuple[int, ...] = (), folds: int = 2, tied: bool = True) -> SurvivalPredicted:
    """Return predictions of patients of whom some are censored; tied: times and risks are whole numbers."""
    random = np.random.default_rng(seed)
    times = random.integers(1, 9, COUNT).astype(float) if tied else random.uniform(1, 8, COUNT)
    events = random.random(COUNT) < 0.6
    times[:2], times[-2:] = 1, 9  # in both folds
    events[:2], events[-2:] = True, True
    grid = np.array([2.0, 3.5, 5.0, 6.0])
    survival = np.sort(random.random((*leading, COUNT, 4)), axis=-1)[..., ::-1]
    risks = np.round(1 - survival[..., -1], 1) if tied else 1 - survival[..., -1]
    places = np.arange(COUNT) % folds
    chances = uncensored(times, events, places, grid)
    return SurvivalPredicted(times, events, places, risks, grid, survival, chances.then, chances.on_grid)


def structured(times: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Return times and events as scikit-survival takes them."""
    return np.array(list(zip(events, times, strict=True)), dtype=[("event", bool), ("time", float)])


def rows(predicted: SurvivalPredicted, places: np.ndarray) -> SurvivalPredicted:
    """Return the predictions of some patients, who have no leading axes."""
    return replace(
        predicted,
        risks=predicted.risks[places],
        survival=predicted.survival[places],
        **{name: getattr(predicted, name)[places] for name in PER_PATIENT},
    )


@pytest.mark.parametrize("tied", [True, False])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_the_scores_of_one_fold_agree_with_scikit_survival(tied: bool, seed: int) -> None:
    library = installed("sksurv.metrics")
    predicted = drawn(seed, folds=1, tied=tied)
    y = structured(predicted.times, predicted.events)
    harrell = library.concordance_index_censored(predicted.events, predicted.times, predicted.risks)[0]
    assert float(MEASURES["concordance_harrell"](predicted, np.ones(COUNT))) == pytest.approx(harrell)
    uno = library.concordance_index_ipcw(y, y, predicted.risks, tau=predicted.horizon)[0]
    assert float(MEASURES["concordance_uno"](predicted, np.ones(COUNT))) == pytest.approx(uno)
    brier = library.integrated_brier_score(y, y, predicted.survival, predicted.grid)
    assert float(MEASURES["integrated_brier"](predicted, np.ones(COUNT))) == pytest.approx(brier)
    at_horizon = library.brier_score(y, y, predicted.survival[:, -1], predicted.horizon)[1][0]
    assert float(MEASURES["brier_at_horizon"](predicted, np.ones(COUNT))) == pytest.approx(at_horizon)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_censoring_from_training_patients_agrees_with_scikit_survival(seed: int) -> None:
    library = installed("sksurv.metrics")
    predicted = drawn(seed)
    held_out = predicted.folds == 0
    own = rows(predicted, np.flatnonzero(held_out))
    train = structured(predicted.times[~held_out], predicted.events[~held_out])
    test = structured(own.times, own.events)
    brier = library.integrated_brier_score(train, test, own.survival, own.grid)
    assert float(MEASURES["integrated_brier"](own, np.ones(len(own.times)))) == pytest.approx(brier)
    uno = library.concordance_index_ipcw(train, test, own.risks, tau=own.horizon)[0]
    assert float(MEASURES["concordance_uno"](own, np.ones(len(own.times)))) == pytest.approx(uno)


def counted(predicted: SurvivalPredicted, weights: np.ndarray, power: int) -> float:
    """Return the concordance by counting pairs one by one; power: of the inverse probability."""
    wins = total = 0.0
    for i in range(COUNT):
        for j in range(COUNT):
            later = predicted.times[j] > predicted.times[i] or (
                predicted.times[j] == predicted.times[i] and not predicted.events[j]
            )
            if not (predicted.events[i] and later and predicted.folds[i] == predicted.folds[j]):
                continue
            if power and not (predicted.times[i] < predicted.horizon and predicted.uncensored_then[i] > 0):
                continue
            pair = (
                weights[i] * weights[j] / predicted.uncensored_then[i] ** power
                if power
                else (weights[i] * weights[j])
            )
            total += pair
            wins += pair * (
                (predicted.risks[i] > predicted.risks[j]) + 0.5 * (predicted.risks[i] == predicted.risks[j])
            )
    return wins / total


@pytest.mark.parametrize(("name", "power"), [("concordance_harrell", 0), ("concordance_uno", 2)])
def test_the_concordance_is_that_of_counted_pairs_within_folds(name: str, power: int) -> None:
    for seed in range(5):
        predicted, weights = drawn(seed), np.random.default_rng(seed).random(COUNT)
        assert float(MEASURES[name](predicted, weights)) == pytest.approx(counted(predicted, weights, power))


@every_metric
def test_a_weight_is_a_number_of_copies_of_a_patient(name: str) -> None:
    predicted, copies = drawn(1), np.random.default_rng(0).integers(0, 4, COUNT)
    several = rows(predicted, np.repeat(np.arange(COUNT), copies))
    weighted = MEASURES[name](predicted, copies.astype(float))
    assert float(weighted) == pytest.approx(float(MEASURES[name](several, np.ones(copies.sum()))))


@every_metric
def test_leading_axes_are_scored_independently(name: str) -> None:
    predicted, weights = drawn(2, leading=(3,)), np.random.default_rng(0).random((3, COUNT)) + 0.1
    together = MEASURES[name](predicted, weights)
    alone = [
        MEASURES[name](replace(predicted, risks=r, survival=s), w)
        for r, s, w in zip(predicted.risks, predicted.survival, weights, strict=True)
    ]
    np.testing.assert_allclose(together, alone)
    one = drawn(2)
    np.testing.assert_allclose(MEASURES[name](one, weights), [MEASURES[name](one, own) for own in weights])


def test_the_concordance_does_not_depend_on_the_scale_of_a_fold() -> None:
    predicted = drawn(3)
    moved = replace(predicted, risks=predicted.risks + 10 * predicted.folds)
    for name in ("concordance_harrell", "concordance_uno"):
        assert float(MEASURES[name](moved, np.ones(COUNT))) == float(
            MEASURES[name](predicted, np.ones(COUNT))
        )


def test_without_censoring_the_weights_are_one() -> None:
    predicted = drawn(4)
    everyone = np.ones(COUNT, dtype=bool)
    chances = uncensored(predicted.times, everyone, predicted.folds, predicted.grid)
    assert (chances.then == 1).all()
    assert (chances.on_grid == 1).all()
    known = replace(predicted, events=everyone, uncensored_then=chances.then, uncensored=chances.on_grid)
    alive = predicted.times > predicted.horizon
    expected = ((known.survival[:, -1] - alive) ** 2).mean()
    assert float(MEASURES["brier_at_horizon"](known, np.ones(COUNT))) == pytest.approx(expected)
    assert float(observed_risk(known, np.ones(COUNT))) == pytest.approx(1 - alive.mean())


def test_a_better_curve_has_a_smaller_error() -> None:
    predicted = drawn(5, tied=False)
    truth = (predicted.times[:, None] > predicted.grid).astype(float)
    best = replace(predicted, survival=truth, risks=-predicted.times)
    ones = np.ones(COUNT)
    assert float(MEASURES["integrated_brier"](best, ones)) == 0
    assert float(MEASURES["integrated_brier"](predicted, ones)) > 0
    assert float(MEASURES["concordance_harrell"](best, ones)) == 1
    assert float(MEASURES["concordance_uno"](best, ones)) == 1


def test_the_censoring_of_each_fold_comes_from_the_others() -> None:
    predicted = drawn(6)
    inside = predicted.folds == 1
    curve = censoring_curve(predicted.times[~inside], predicted.events[~inside])
    then, on_grid = by_curve(curve, predicted.times[inside], predicted.grid)
    np.testing.assert_array_equal(predicted.uncensored_then[inside], then)
    np.testing.assert_array_equal(predicted.uncensored[inside], on_grid)
    assert on_grid.shape == (inside.sum(), 4)


def test_the_observed_risk_is_that_of_the_kaplan_meier_curve() -> None:
    predicted = drawn(7)
    curve = survival_curve(predicted.times, predicted.events)
    expected = 1 - curve.at(np.array([predicted.horizon]))[0]
    assert float(observed_risk(predicted, np.ones(COUNT))) == pytest.approx(expected)
    ratio = float(observed_to_expected(predicted, np.ones(COUNT)))
    assert ratio == pytest.approx(expected / (1 - predicted.survival[:, -1]).mean())


def test_all_patients_censored_before_a_time_leave_no_error_there() -> None:
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, False, False])
    folds, grid = np.zeros(4), np.array([1.5, 5.0])
    chances = uncensored(times, events, folds, grid)
    assert chances.on_grid[0, 1] == 0
    survival = np.full((4, 2), 0.5)
    predicted = SurvivalPredicted(
        times, events, folds, np.zeros(4), grid, survival, chances.then, chances.on_grid
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = {name: float(measure(predicted, np.ones(4))) for name, measure in MEASURES.items()}
    assert scores["brier_at_horizon"] == pytest.approx(0.25 / 4)  # only the event counts
    assert scores["concordance_harrell"] == 0.5


def test_where_no_pair_is_comparable_the_concordance_is_nan_without_a_warning() -> None:
    censored = replace(drawn(8), events=np.zeros(COUNT, dtype=bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("concordance_harrell", "concordance_uno"):
            assert np.isnan(float(MEASURES[name](censored, np.ones(COUNT))))
        assert float(observed_risk(censored, np.ones(COUNT))) == 0


def test_a_fold_without_events_adds_no_pairs() -> None:
    predicted = drawn(9)
    quiet = replace(predicted, events=predicted.events & (predicted.folds == 0))
    alone = rows(quiet, np.flatnonzero(quiet.folds == 0))
    for name in ("concordance_harrell", "concordance_uno"):
        score = float(MEASURES[name](quiet, np.ones(COUNT)))
        assert score == pytest.approx(float(MEASURES[name](alone, np.ones(len(alone.times)))))


def test_useless_risks_have_a_concordance_of_one_half_on_average() -> None:
    predicted = drawn(10)
    risks = np.random.default_rng(0).random((2000, COUNT))
    useless = replace(predicted, risks=risks, survival=np.full((2000, COUNT, 4), 0.5))
    for name in ("concordance_harrell", "concordance_uno"):
        assert float(MEASURES[name](useless, np.ones(COUNT)).mean()) == pytest.approx(0.5, abs=0.01)
