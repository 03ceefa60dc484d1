"""Metrics of numbers against scikit-learn and scipy, with weights, ties and folds."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.number_metrics import NUMBER_METRICS

every_metric = pytest.mark.parametrize("name", NUMBER_METRICS)


def numbers(targets: np.ndarray, values: np.ndarray, folds: np.ndarray) -> Predicted:
    return Predicted(targets, values, np.zeros_like(values), folds)


def drawn(seed: int, leading: tuple[int, ...] = (), folds: int = 2) -> Predicted:
    """Return integers, many of which are tied, of 12 patients."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 6, 12).astype(float)
    values = targets + random.integers(-3, 4, (*leading, 12))
    return numbers(targets, values, np.arange(12) % folds)


SK = {
    "mae": lambda y, v, w: sk.mean_absolute_error(y, v, sample_weight=w),
    "rmse": lambda y, v, w: sk.root_mean_squared_error(y, v, sample_weight=w),
    "r2": lambda y, v, w: sk.r2_score(y, v, sample_weight=w),
    "spearman": lambda y, v, w: spearmanr(np.repeat(y, w.astype(int)), np.repeat(v, w.astype(int))).statistic,
    "concordance": lambda y, v, w: somers(np.repeat(y, w.astype(int)), np.repeat(v, w.astype(int))),
}


def somers(targets: np.ndarray, values: np.ndarray) -> float:
    """Return the share of concordant pairs, counted one by one."""
    wins = [
        (values[i] > values[j]) + 0.5 * (values[i] == values[j])
        for i in range(len(targets))
        for j in range(len(targets))
        if targets[i] > targets[j]
    ]
    return float(np.mean(wins))


@every_metric
@given(seed=st.integers(0, 500))
@settings(max_examples=20)
def test_a_weighted_metric_of_one_fold_agrees_with_the_library(name: str, seed: int) -> None:
    predicted = drawn(seed, folds=1)
    weights = np.random.default_rng(seed).integers(1, 4, 12).astype(float)
    expected = SK[name](predicted.labels, predicted.probabilities, weights)
    assert float(NUMBER_METRICS[name].of(predicted, weights)) == pytest.approx(expected)


def test_the_concordance_without_ties_is_kendalls_tau() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=20)
    values = targets + random.normal(size=20)
    score = NUMBER_METRICS["concordance"].score(numbers(targets, values, np.zeros(20)), 20)
    assert 2 * score - 1 == pytest.approx(kendalltau(targets, values).statistic)


@every_metric
def test_a_weight_is_a_number_of_copies_of_a_patient(name: str) -> None:
    predicted, copies = drawn(1), np.array([2, 1, 3, 1, 2, 1, 0, 1, 1, 2, 3, 1])
    places = np.repeat(np.arange(12), copies)
    several = numbers(predicted.labels[places], predicted.probabilities[places], predicted.folds[places])
    weighted = NUMBER_METRICS[name].of(predicted, copies.astype(float))
    assert float(weighted) == pytest.approx(NUMBER_METRICS[name].score(several, len(places)))


@every_metric
def test_leading_axes_are_scored_independently(name: str) -> None:
    predicted, weights = drawn(2, leading=(4,)), np.random.default_rng(0).random((4, 12)) + 0.1
    together = NUMBER_METRICS[name].of(predicted, weights)
    alone = [
        NUMBER_METRICS[name].of(numbers(predicted.labels, v, predicted.folds), w)
        for v, w in zip(predicted.probabilities, weights, strict=True)
    ]
    np.testing.assert_allclose(together, alone)
    np.testing.assert_allclose(
        NUMBER_METRICS[name].of(drawn(2), weights),
        [NUMBER_METRICS[name].of(drawn(2), own) for own in weights],
    )


@every_metric
def test_the_direction_of_a_metric_is_that_of_better_predictions(name: str) -> None:
    metric = NUMBER_METRICS[name]
    for seed in range(20):
        predicted = drawn(seed)
        best = metric.score(numbers(predicted.labels, predicted.labels, predicted.folds), 12)
        score = metric.score(predicted, 12)
        assert score <= best if metric.higher_is_better else score >= best


@pytest.mark.parametrize("name", ["spearman", "concordance"])
def test_the_order_is_compared_within_folds_only(name: str) -> None:
    predicted = drawn(3)
    moved = predicted.probabilities + 100 * predicted.folds
    shifted = numbers(predicted.labels, moved, predicted.folds)
    assert NUMBER_METRICS[name].score(shifted, 12) == pytest.approx(NUMBER_METRICS[name].score(predicted, 12))


@pytest.mark.parametrize(("name", "chance"), [("spearman", 0.0), ("concordance", 0.5)])
def test_the_mean_of_the_training_patients_scores_as_chance(name: str, chance: float) -> None:
    random = np.random.default_rng(0)
    targets, folds = random.normal(size=100), np.arange(100) % 5
    means = np.array([targets[folds != fold].mean() for fold in range(5)])[folds]
    noise = means + 1e-3 * random.normal(size=(400, 100))
    scores = NUMBER_METRICS[name].of(numbers(targets, noise, folds), np.ones(100))
    assert float(scores.mean()) == pytest.approx(chance, abs=0.02)
    pooled = NUMBER_METRICS[name].of(numbers(targets, noise, folds * 0), np.ones(100))
    assert float(pooled.mean()) < chance - 0.02


def test_an_affine_change_of_unit_moves_only_the_errors() -> None:
    predicted = drawn(4)
    other = numbers(10 * predicted.labels + 3, 10 * predicted.probabilities + 3, predicted.folds)
    for name, metric in NUMBER_METRICS.items():
        factor = 10 if name in ("mae", "rmse") else 1
        assert metric.score(other, 12) == pytest.approx(factor * metric.score(predicted, 12))


def test_scores_without_a_value_are_nan_without_a_warning() -> None:
    constant = numbers(np.ones(6), np.arange(6.0), np.arange(6) % 2)
    flat = numbers(np.arange(6.0), np.ones(6), np.arange(6) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(np.isnan(NUMBER_METRICS[name].score(constant, 6)) for name in ("r2", "spearman"))
        assert np.isnan(NUMBER_METRICS["concordance"].score(constant, 6))
        assert np.isnan(NUMBER_METRICS["spearman"].score(flat, 6))
        assert NUMBER_METRICS["concordance"].score(flat, 6) == 0.5


def test_a_fold_with_equal_targets_adds_nothing_to_the_order() -> None:
    targets = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 3.0])
    values, folds = np.array([3.0, 1.0, 2.0, 2.0, 1.0, 3.0]), np.array([0, 0, 0, 1, 1, 1])
    both = numbers(targets, values, folds)
    alone = numbers(targets[3:], values[3:], folds[3:])
    assert NUMBER_METRICS["concordance"].score(both, 6) == NUMBER_METRICS["concordance"].score(alone, 3)
