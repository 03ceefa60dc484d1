"""Metrics of classes against scikit-learn, against the binary metrics, and by their properties."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_toolkit.evaluation import class_metrics as classes
from mil_toolkit.evaluation.class_metrics import (
    OF_EACH_CLASS,
    ORDERED_METRICS,
    confusion,
    one_vs_rest,
)
from mil_toolkit.evaluation.metrics import METRICS, Predicted

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 0, 1])
ALL = {**ORDERED_METRICS, **OF_EACH_CLASS}
every_metric = pytest.mark.parametrize("name", ALL)


def drawn(seed: int, leading: tuple[int, ...] = (), width: int = 3) -> Predicted:
    """Return predictions with ties, in two folds that have every class."""
    random = np.random.default_rng(seed)
    raw = random.integers(1, 6, (*leading, len(LABELS), width)).astype(float)
    probabilities = raw / raw.sum(-1, keepdims=True)
    folds = np.array([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    return Predicted(np.minimum(LABELS, width - 1), probabilities, probabilities.argmax(-1), folds)


def one_fold(predicted: Predicted) -> Predicted:
    return Predicted(
        predicted.labels, predicted.probabilities, predicted.decisions, np.zeros(len(predicted.labels))
    )


def ovr_auc(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> float:
    return float(np.mean([sk.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in range(3)]))


SK = {
    "balanced_accuracy": lambda y, p, d, w: sk.balanced_accuracy_score(y, d, sample_weight=w),
    "macro_f1": lambda y, p, d, w: sk.f1_score(y, d, sample_weight=w, average="macro"),
    "macro_auc": lambda y, p, d, w: ovr_auc(y, p, w),
    "balanced_log_loss": lambda y, p, d, w: np.mean(
        [sk.log_loss(y[y == c], p[y == c], sample_weight=w[y == c], labels=[0, 1, 2]) for c in range(3)]
    ),
    "brier": lambda y, p, d, w: np.average(((p - np.eye(3)[y]) ** 2).sum(1), weights=w),
    "kappa": lambda y, p, d, w: sk.cohen_kappa_score(y, d, sample_weight=w),
    "quadratic_kappa": lambda y, p, d, w: sk.cohen_kappa_score(y, d, sample_weight=w, weights="quadratic"),
    "rank_error": lambda y, p, d, w: sk.mean_absolute_error(y, d, sample_weight=w),
    "sensitivity": lambda y, p, d, w: sk.recall_score(y, d, sample_weight=w, average=None),
    "specificity": lambda y, p, d, w: [
        sk.recall_score(y != c, d != c, sample_weight=w, pos_label=True) for c in range(3)
    ],
    "ppv": lambda y, p, d, w: sk.precision_score(y, d, sample_weight=w, average=None, zero_division=np.nan),
}


@every_metric
@given(seed=st.integers(0, 500))
@settings(max_examples=20)
def test_a_weighted_metric_agrees_with_scikit_learn(name: str, seed: int) -> None:
    predicted = one_fold(drawn(seed))
    weights = np.random.default_rng(seed).integers(1, 5, len(LABELS)).astype(float)
    expected = SK[name](LABELS, predicted.probabilities, predicted.decisions, weights)
    np.testing.assert_allclose(ALL[name].of(predicted, weights), expected, rtol=1e-12, atol=1e-15)


def test_the_multiclass_brier_score_agrees_with_scikit_learn() -> None:
    predicted = drawn(3)
    expected = sk.brier_score_loss(LABELS, predicted.probabilities, labels=[0, 1, 2], scale_by_half=False)
    assert float(classes.brier(predicted, np.ones(12))) == pytest.approx(expected)


def test_the_confusion_matrix_agrees_with_scikit_learn() -> None:
    predicted, weights = drawn(1), np.arange(1.0, 13.0)
    expected = sk.confusion_matrix(LABELS, predicted.decisions, sample_weight=weights)
    np.testing.assert_allclose(confusion(predicted, weights), expected)


@every_metric
def test_a_weight_is_a_number_of_copies_of_a_patient(name: str) -> None:
    predicted, copies = drawn(2), np.array([2, 1, 3, 1, 2, 1, 0, 1, 1, 2, 3, 1])
    places = np.repeat(np.arange(12), copies)
    several = Predicted(
        *(
            rows[places]
            for rows in (predicted.labels, predicted.probabilities, predicted.decisions, predicted.folds)
        )
    )
    np.testing.assert_allclose(
        ALL[name].of(predicted, copies.astype(float)), ALL[name].of(several, np.ones(len(places)))
    )


@every_metric
def test_leading_axes_are_scored_independently(name: str) -> None:
    predicted, weights = drawn(4, leading=(5,)), np.random.default_rng(0).random((5, 12)) + 0.1
    together = ALL[name].of(predicted, weights)
    alone = [
        ALL[name].of(Predicted(predicted.labels, p, d, predicted.folds), w)
        for p, d, w in zip(predicted.probabilities, predicted.decisions, weights, strict=True)
    ]
    np.testing.assert_allclose(together, alone)
    draws_only = ALL[name].of(drawn(4), weights)
    np.testing.assert_allclose(draws_only, [ALL[name].of(drawn(4), own) for own in weights])


@every_metric
def test_the_order_of_the_patients_does_not_matter(name: str) -> None:
    predicted, weights = drawn(5), np.arange(1.0, 13.0)
    order = np.random.default_rng(0).permutation(12)
    shuffled = Predicted(
        *(
            rows[order]
            for rows in (predicted.labels, predicted.probabilities, predicted.decisions, predicted.folds)
        )
    )
    np.testing.assert_allclose(
        ALL[name].of(predicted, weights), ALL[name].of(shuffled, weights[order]), atol=1e-15
    )


@pytest.mark.parametrize("name", ORDERED_METRICS)
def test_the_direction_of_a_metric_is_that_of_better_predictions(name: str) -> None:
    probabilities = np.full((12, 3), 0.001)
    probabilities[np.arange(12), LABELS] = 0.998
    perfect = Predicted(LABELS, probabilities, LABELS, np.zeros(12))
    best = ALL[name].score(perfect, 12)
    others = [ALL[name].score(drawn(seed), 12) for seed in range(30)]
    assert min(others) > best if not ALL[name].higher_is_better else max(others) < best


@pytest.mark.parametrize(
    ("name", "binary", "factor"),
    [
        ("balanced_accuracy", "balanced_accuracy", 1),
        ("balanced_log_loss", "balanced_log_loss", 1),
        ("macro_auc", "auc", 1),
        ("brier", "brier", 2),
    ],
)
@given(seed=st.integers(0, 500))
@settings(max_examples=20)
def test_two_classes_have_the_scores_of_a_binary_outcome(
    name: str, binary: str, factor: float, seed: int
) -> None:
    predicted, weights = drawn(seed, width=2), np.random.default_rng(seed).random(12) + 0.1
    positive = predicted.probabilities[:, 1]
    as_binary = Predicted(predicted.labels, positive, predicted.decisions == 1, predicted.folds)
    expected = factor * METRICS[binary].of(as_binary, weights)
    np.testing.assert_allclose(ALL[name].of(predicted, weights), expected, rtol=1e-12)


def test_each_class_has_the_rates_of_a_binary_outcome() -> None:
    predicted, weights = drawn(6), np.arange(1.0, 13.0)
    for name in OF_EACH_CLASS:
        expected = [METRICS[name].of(one_vs_rest(predicted, label), weights) for label in range(3)]
        np.testing.assert_allclose(ALL[name].of(predicted, weights), expected)


def test_the_macro_auc_compares_patients_of_the_same_fold_only() -> None:
    predicted = drawn(7)
    shifted = predicted.probabilities.copy()
    shifted[predicted.folds == 2] **= 3  # keeps the order within the fold
    other = Predicted(LABELS, shifted, predicted.decisions, predicted.folds)
    ones = np.ones(12)
    assert float(classes.macro_auc(other, ones)) == float(classes.macro_auc(predicted, ones))
    assert float(classes.macro_auc(one_fold(other), ones)) != float(
        classes.macro_auc(one_fold(predicted), ones)
    )


def test_a_fold_that_lacks_a_class_adds_the_pairs_that_it_has() -> None:
    probabilities = drawn(8).probabilities
    folds = np.where(LABELS == 2, 1, np.arange(12) % 2)  # fold 0 lacks class 2
    predicted = Predicted(LABELS, probabilities, probabilities.argmax(-1), folds)
    expected = METRICS["auc"].of(one_vs_rest(predicted, 2), np.ones(12))
    inside = folds == 1
    alone = sk.roc_auc_score(LABELS[inside] == 2, probabilities[inside, 2])
    assert float(classes.class_aucs(predicted, np.ones(12))[2]) == pytest.approx(float(expected))
    assert float(expected) == pytest.approx(alone)


def test_scores_that_need_a_missing_class_are_nan_without_a_warning() -> None:
    predicted, weights = drawn(9), np.where(LABELS == 2, 0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("balanced_accuracy", "balanced_log_loss", "macro_auc"):
            assert np.isnan(float(ALL[name].of(predicted, weights)))
        rates = ALL["sensitivity"].of(predicted, weights)
        nothing = ALL["kappa"].of(predicted, np.zeros(12))
    assert np.isnan(rates).tolist() == [False, False, True]
    assert np.isnan(float(nothing))


def test_a_class_that_nobody_is_predicted_to_have_has_no_predictive_value() -> None:
    predicted = drawn(10)
    without = Predicted(LABELS, predicted.probabilities, np.minimum(predicted.decisions, 1), LABELS * 0)
    assert np.isnan(ALL["ppv"].of(without, np.ones(12))).tolist() == [False, False, True]
    assert np.isfinite(ALL["macro_f1"].score(without, 12))


def test_agreement_by_chance_is_zero_and_perfect_agreement_one() -> None:
    labels, decisions = np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3)
    probabilities = np.full((9, 3), 1 / 3)
    for name in ("kappa", "quadratic_kappa"):
        chance = ALL[name].score(Predicted(labels, probabilities, decisions, labels * 0), 9)
        perfect = ALL[name].score(Predicted(labels, probabilities, labels, labels * 0), 9)
        assert chance == pytest.approx(0)
        assert perfect == 1


def test_far_ranks_cost_more_than_near_ones() -> None:
    labels, probabilities = np.array([0, 0, 1, 1, 2, 2]), np.full((6, 3), 1 / 3)
    near, far = np.array([1, 0, 1, 1, 2, 2]), np.array([2, 0, 1, 1, 2, 2])
    scores = [Predicted(labels, probabilities, decisions, labels * 0) for decisions in (near, far)]
    assert ALL["kappa"].score(scores[0], 6) == pytest.approx(ALL["kappa"].score(scores[1], 6), abs=0.02)
    assert ALL["quadratic_kappa"].score(scores[0], 6) > ALL["quadratic_kappa"].score(scores[1], 6)
    assert ALL["rank_error"].score(scores[1], 6) == 2 * ALL["rank_error"].score(scores[0], 6)


def test_the_cost_of_a_wrong_prediction_is_the_loss_for_the_most_probable_wrong_class() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    predicted = Predicted(np.array([0, 1]), probabilities, np.array([0, 2]), np.zeros(2))
    np.testing.assert_allclose(ALL["balanced_log_loss"].costs(predicted), -np.log([0.2, 0.6]))
    np.testing.assert_allclose(ALL["brier"].costs(predicted), [0.49 + 0.64 + 0.01, 0.01 + 0.09 + 0.16])
