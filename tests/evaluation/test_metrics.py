"""Metrics, compared with their formulas and with scikit-learn."""

import math
import tracemalloc

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.evaluation.metrics import METRICS, Predicted, score_all

LABELS = np.array([1, 1, 1, 0, 0, 1])
PROBABILITIES = np.array([0.9, 0.5, 0.2, 0.4, 0.6, 0.8])


def test_the_metrics_are_those_of_the_configuration() -> None:
    assert tuple(METRICS) == OUTCOME_METRICS["binary"].names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("sensitivity", 3 / 4),
        ("specificity", 1 / 2),
        ("balanced_accuracy", 5 / 8),
        ("auc", 5 / 8),
        ("brier", (0.01 + 0.25 + 0.64 + 0.16 + 0.36 + 0.04) / 6),
        ("log_loss", -sum(map(math.log, (0.9, 0.5, 0.2, 0.6, 0.4, 0.8))) / 6),
        (
            "balanced_log_loss",
            -sum(map(math.log, (0.9, 0.5, 0.2, 0.8))) / 8 - sum(map(math.log, (0.6, 0.4))) / 4,
        ),
    ],
)
def test_a_metric_agrees_with_its_formula(name: str, expected: float) -> None:
    assert METRICS[name].score(LABELS, PROBABILITIES, 0.5) == pytest.approx(expected)


def test_a_probability_at_the_threshold_is_positive() -> None:
    assert METRICS["sensitivity"].score(LABELS, PROBABILITIES, 0.2) == 1
    assert METRICS["specificity"].score(LABELS, PROBABILITIES, 0.6) == 1 / 2
    assert METRICS["specificity"].score(LABELS, PROBABILITIES, 0.61) == 1


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0.01, 0.99)), min_size=2, max_size=30))
def test_the_direction_of_a_metric_is_that_of_better_predictions(pairs: list[tuple[int, float]]) -> None:
    labels, probabilities = np.array([each[0] for each in pairs]), np.array([each[1] for each in pairs])
    if len(set(labels.tolist())) < 2:
        labels[0] = 1 - labels[0]
    perfect = score_all(labels, np.where(labels == 1, 0.999, 0.001))
    for name, found in score_all(labels, probabilities).items():
        if name in ("referred", "calibration_error") or math.isnan(found):
            continue  # no ranking of patients makes these better
        assert found <= perfect[name] if METRICS[name].higher_is_better else found >= perfect[name]


def test_copying_a_class_does_not_move_the_balanced_metrics() -> None:
    copies = np.concatenate([np.arange(6), *[np.flatnonzero(LABELS == 1)] * 3])
    for name in ("balanced_log_loss", "balanced_accuracy", "auc"):
        one = METRICS[name].score(LABELS, PROBABILITIES, 0.5)
        assert METRICS[name].score(LABELS[copies], PROBABILITIES[copies], 0.5) == pytest.approx(one)


def predicted(probabilities: np.ndarray, prevalence: float | None = None) -> Predicted:
    return Predicted(LABELS, probabilities, probabilities >= 0.5, np.zeros(6), prevalence)


SK = {
    "log_loss": lambda y, p, w: sk.log_loss(y, p, sample_weight=w),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p >= 0.5, sample_weight=w),
    "sensitivity": lambda y, p, w: sk.recall_score(y, p >= 0.5, sample_weight=w),
    "specificity": lambda y, p, w: sk.recall_score(y, p >= 0.5, pos_label=0, sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p >= 0.5, sample_weight=w),
    "auc": lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w),
    "auc_pooled": lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w),
    "brier": lambda y, p, w: sk.brier_score_loss(y, p, sample_weight=w),
    "ppv": lambda y, p, w: sk.precision_score(y, p >= 0.5, sample_weight=w),
    "npv": lambda y, p, w: sk.precision_score(1 - y, p < 0.5, sample_weight=w),
}


@pytest.mark.parametrize("name", SK)
@given(weights=st.lists(st.floats(0.1, 9), min_size=6, max_size=6))
def test_a_weighted_metric_agrees_with_scikit_learn(name: str, weights: list[float]) -> None:
    w = np.array(weights)
    score = METRICS[name].of(predicted(PROBABILITIES), w)
    assert float(score) == pytest.approx(SK[name](LABELS, PROBABILITIES, w))


@pytest.mark.parametrize("name", METRICS)
def test_a_weight_is_a_number_of_copies_of_a_patient(name: str) -> None:
    copies = np.array([2, 1, 3, 1, 2, 1])
    places = np.repeat(np.arange(6), copies)
    several = Predicted(LABELS[places], PROBABILITIES[places], PROBABILITIES[places] >= 0.5, np.zeros(10))
    weighted = METRICS[name].of(predicted(PROBABILITIES), copies.astype(float))
    assert float(weighted) == pytest.approx(float(METRICS[name].of(several, np.ones(10))))


@pytest.mark.parametrize("name", METRICS)
def test_leading_axes_are_scored_independently(name: str) -> None:
    random = np.random.default_rng(0)
    probabilities, weights = random.random((3, 6)), random.random((3, 6)) + 0.1
    together = METRICS[name].of(predicted(probabilities), weights)
    alone = [METRICS[name].of(predicted(p), w) for p, w in zip(probabilities, weights, strict=True)]
    np.testing.assert_allclose(together, alone)


def test_auc_counts_only_pairs_within_folds() -> None:
    folds = np.array([1, 1, 2, 1, 2, 2])
    pairs = [(0.9, 0.4), (0.5, 0.4), (0.2, 0.6), (0.8, 0.6)]  # positive and negative of the same fold
    score = METRICS["auc"].of(Predicted(LABELS, PROBABILITIES, PROBABILITIES >= 0.5, folds), np.ones(6))
    assert float(score) == sum(high > low for high, low in pairs) / len(pairs)


def pairs_of(labels: np.ndarray, folds: np.ndarray) -> list[tuple[int, int]]:
    """Return the places of every positive and negative patient of the same fold."""
    places = [np.flatnonzero(labels == label).tolist() for label in (1, 0)]
    return [(one, other) for one in places[0] for other in places[1] if folds[one] == folds[other]]


patients_in_folds = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.3, 0.5, 1.0]), st.integers(0, 2), st.integers(0, 3)
    ),
    max_size=25,
)


@given(patients_in_folds)
def test_auc_is_exactly_that_of_all_pairs(rows: list[tuple[int, float, int, int]]) -> None:
    labels, probabilities, folds, weights = np.array(rows, dtype=float).reshape(-1, 4).T
    whole = Predicted(labels.astype(int), probabilities, probabilities >= 0.5, folds)
    for name, used in (("auc", folds), ("auc_pooled", np.zeros(len(folds)))):
        concordant = total = 0.0
        for one, other in pairs_of(labels, used):
            weight = weights[one] * weights[other]
            total += weight
            concordant += weight * (
                (probabilities[one] > probabilities[other])
                + 0.5 * (probabilities[one] == probabilities[other])
            )
        expected = concordant / total if total else np.nan
        np.testing.assert_array_equal(METRICS[name].of(whole, weights), expected)
        np.testing.assert_array_equal(METRICS[name].of(whole, np.stack([weights, weights])), [expected] * 2)


def test_memory_of_the_aucs_does_not_grow_with_the_pairs() -> None:
    random, count = np.random.default_rng(0), 20_000
    labels, probabilities = random.integers(0, 2, count), random.random(count)
    many = Predicted(labels, probabilities, probabilities >= 0.5, random.integers(0, 3, count))
    for name in ("auc", "auc_pooled"):
        tracemalloc.start()
        METRICS[name].of(many, np.ones(count))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300 * count, name  # bytes; a matrix of all pairs takes 5,000 for each patient


def test_the_predictive_values_depend_on_the_stated_prevalence() -> None:
    at = predicted(PROBABILITIES, prevalence=0.1)
    sensitivity, specificity, ones = 0.75, 0.5, np.ones(6)
    true, false = sensitivity * 0.1, (1 - specificity) * 0.9
    assert METRICS["referred"].of(at, ones) == pytest.approx(true + false)
    assert METRICS["ppv"].of(at, ones) == pytest.approx(true / (true + false))
    assert METRICS["npv"].of(at, ones) == pytest.approx(specificity * 0.9 / (1 - true - false))


def test_the_calibration_error_is_the_weighted_mean_gap_of_the_bins() -> None:
    probabilities = np.array([0.85, 0.85, 0.15, 0.15, 0.15, 1.0])
    gaps = [abs(1.7 - 2) / 6, abs(0.45 - 1) / 6, 0]
    assert METRICS["calibration_error"].of(predicted(probabilities), np.ones(6)) == pytest.approx(sum(gaps))
