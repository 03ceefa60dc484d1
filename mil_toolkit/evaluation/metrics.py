"""Metrics of predictions with one row per patient, collected in `METRICS`.

A metric takes `Predicted` and weights of the patients. Both may have leading axes, so that thousands of
resamples of the patients, or as many swaps of two methods, are scored in one call. scikit-learn's functions
take a single set of weights at a time; the tests check that both give the same values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.weighted import ratio

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
BINS = 10  # of equal width, for the calibration error and the reliability curve
_SMALLEST = np.finfo(float).eps  # probability whose logarithm is taken, as in scikit-learn


class Pairs(NamedTuple):
    """Pairs of a positive and a negative patient of the same fold, by the order of their probabilities.

    negatives: (N,), positives: (P,), positions of the patients sorted by fold and probability
    first, last: (P,), between which places of `negatives` those of the positive's fold are
    lower, upto: (P,), between which places those with its probability are
    """

    negatives: np.ndarray
    positives: np.ndarray
    first: np.ndarray
    last: np.ndarray
    lower: np.ndarray
    upto: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray) -> "Pairs":
        """Return the pairs of n patients: all arguments (n,)."""
        order = np.lexsort((probabilities, folds))
        level = (_is_new(probabilities[order]) | _is_new(folds[order])).cumsum()
        negatives, positives = (order[labels[order] == label] for label in (0, 1))
        fold, place = folds.take, level[order.argsort()].take
        first, last = (np.searchsorted(fold(negatives), fold(positives), side) for side in _SIDES)
        lower, upto = (np.searchsorted(place(negatives), place(positives), side) for side in _SIDES)
        return cls(negatives, positives, first, last, lower, upto)


def _is_new(values: np.ndarray) -> np.ndarray:
    """Return whether each of sorted values (n,) differs from the one before it; the first one does."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


@dataclass(frozen=True)
class Predicted:
    """Predictions for n patients.

    labels: (n,) of 0 and 1; folds: (n,), the outer fold that held the patient out
    probabilities: (..., n), of the positive class; decisions: (..., n), True if predicted positive
    prevalence: share of positives for the predictive values; None uses the share among the weighted patients

    For other outcomes than two classes, `labels` are the targets (n, ...), `probabilities` the predicted
    values (..., n) or (..., n, V), and `decisions` (..., n) what is decided from them.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray
    folds: np.ndarray
    prevalence: float | None = None

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs within folds, for probabilities (n,)."""
        return Pairs.of(self.labels, self.probabilities, self.folds)

    @cached_property
    def pooled_pairs(self) -> Pairs:
        """All pairs, for probabilities (n,)."""
        return Pairs.of(self.labels, self.probabilities, np.zeros(len(self.labels)))


Score = Callable[[Predicted, np.ndarray], np.ndarray]
"""A function of predictions and weights (..., n) of the patients that returns the scores (...)."""


@dataclass(frozen=True)
class Metric:
    """A score and its properties.

    of: computes the score
    resampled: whether the score has an interval over samples of patients
    measure: how the interval is formed; None: by methods.py
    """

    of: Score
    higher_is_better: bool = True
    resampled: bool = True
    measure: Measure["Predicted"] | None = None

    def value(self, predicted: Predicted) -> float:
        """Return the score of predictions in which all patients count alike."""
        return float(self.of(predicted, np.ones(len(predicted.labels))))

    def score(self, labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
        """Return the score of predictions from a single fold: labels (n,), probabilities (n,).

        >>> METRICS["sensitivity"].score(np.array([1, 1, 0]), np.array([0.9, 0.4, 0.2]))
        0.5
        """
        decisions, folds = probabilities >= threshold, np.zeros(len(labels))
        return float(self.of(Predicted(labels, probabilities, decisions, folds), np.ones(len(labels))))


def metrics_of(measures: Mapping[str, Measure[Predicted]]) -> dict[str, Metric]:
    """Return the metrics, by name, whose intervals follow from their measures."""
    return {
        name: Metric(measure.of, measure.higher_is_better, measure=measure)
        for name, measure in measures.items()
    }


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (values * weights).sum(-1) / weights.sum(-1)


def _of_class(label: int, predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    return weights * (predicted.labels == label)


def _share(hits: np.ndarray, counted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of `hits` (..., n) among the patients `counted` (n,), both bool.

    Sums of whole weights are exact, so that the product of matrices gives the bits of any other sum.
    """
    both = (hits & counted).astype(float)
    number = weights @ both if both.ndim == 1 else (weights * both).sum(-1)
    return np.asarray(number / (weights @ counted.astype(float)))


def losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log-loss of each patient in nats: labels (n,), probabilities (..., n) -> (..., n)."""
    of_label = np.where(labels == 1, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(of_label, _SMALLEST, 1 - _SMALLEST)))


def log_loss(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean log-loss in nats."""
    return _mean(losses(predicted.labels, predicted.probabilities), weights)


def balanced_log_loss(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the log-loss in nats with equal total weights of both classes."""
    of_patients = losses(predicted.labels, predicted.probabilities)
    negative, positive = (_mean(of_patients, _of_class(label, predicted, weights)) for label in (0, 1))
    return (negative + positive) / 2


def accuracy(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of patients that are predicted correctly."""
    return _share(predicted.decisions == predicted.labels, np.ones(len(predicted.labels), bool), weights)


def sensitivity(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of positive patients that are predicted positive."""
    return _share(predicted.decisions, predicted.labels == 1, weights)


def specificity(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of negative patients that are predicted negative."""
    return _share(~predicted.decisions, predicted.labels == 0, weights)


def balanced_accuracy(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean of sensitivity and specificity."""
    return (sensitivity(predicted, weights) + specificity(predicted, weights)) / 2


def auc(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of concordant pairs of a positive and a negative patient in the same fold.

    Ties count one half. Pairs across folds are left out because models of different folds have different
    scales. NaN if no fold has patients of both classes.

    >>> labels, probabilities = np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.5, 0.1])
    >>> predicted = Predicted(labels, probabilities, probabilities >= 0.5, folds=np.array([1, 1, 2, 2]))
    >>> float(auc(predicted, np.ones(4))), float(auc_pooled(predicted, np.ones(4)))
    (1.0, 0.75)
    """
    return _concordance(predicted, weights, pooled=False)


def auc_pooled(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of all patients, which includes pairs across folds."""
    return _concordance(predicted, weights, pooled=True)


def _concordance(predicted: Predicted, weights: np.ndarray, pooled: bool) -> np.ndarray:
    """Return the share of concordant pairs, without a matrix of all pairs.

    With whole weights, all sums are multiples of one half: their order makes no difference.
    """
    if predicted.probabilities.ndim > 1:
        rows = np.broadcast_to(weights, predicted.probabilities.shape)
        each = zip(predicted.probabilities, rows, strict=True)
        return np.stack([_concordance(replace(predicted, probabilities=p), w, pooled) for p, w in each])
    pairs = predicted.pooled_pairs if pooled else predicted.pairs
    negatives, positives = weights.take(pairs.negatives, -1), weights.take(pairs.positives, -1)
    # The weight of the negatives before each place
    before = np.concatenate([np.zeros((*weights.shape[:-1], 1)), negatives.cumsum(-1)], -1)
    start = before.take(pairs.first, -1)
    concordant = positives * ((before.take(pairs.lower, -1) + before.take(pairs.upto, -1)) / 2 - start)
    total = positives * (before.take(pairs.last, -1) - start)
    return ratio(concordant.sum(-1), total.sum(-1))


def brier(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean squared difference of probability and label."""
    return _mean((predicted.probabilities - predicted.labels) ** 2, weights)


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the bin of each probability: 0 to BINS - 1, of equal width.

    >>> bins_of(np.array([0.0, 0.05, 0.95, 1.0])).tolist()
    [0, 0, 9, 9]
    """
    return np.minimum((probabilities * BINS).astype(int), BINS - 1)


def calibration_error(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration error over ten bins of equal width (Naeini et al. 2015)."""
    bins, surplus = bins_of(predicted.probabilities), predicted.probabilities - predicted.labels
    if surplus.ndim == 1 and weights[..., 0].size > 1:  # one product for all weights
        gaps = np.abs(weights @ (surplus[:, None] * (bins[:, None] == np.arange(BINS)))).sum(-1)
    else:
        weighted = surplus * weights
        gaps = sum(np.abs((weighted * (bins == number)).sum(-1)) for number in range(BINS))
    return np.asarray(gaps / weights.sum(-1))


def _positive_shares(predicted: Predicted, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of true and of false positives among all patients, at the stated prevalence."""
    prevalence = _prevalence(predicted, weights)
    false_positive_rate = 1 - specificity(predicted, weights)
    return sensitivity(predicted, weights) * prevalence, false_positive_rate * (1 - prevalence)


def _prevalence(predicted: Predicted, weights: np.ndarray) -> np.ndarray | np.float64:
    stated = predicted.prevalence
    if stated is not None:
        return np.float64(stated)
    return _share(predicted.labels == 1, np.ones(len(predicted.labels), bool), weights)


def referred(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of patients referred to flow cytometry, at the stated prevalence.

    A patient is referred if predicted positive.
    """
    true, false = _positive_shares(predicted, weights)
    return true + false


def ppv(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the positive predictive value, at the stated prevalence.

    This is the share of positives among the referred patients; NaN if nobody is referred.
    """
    true, false = _positive_shares(predicted, weights)
    return ratio(true, true + false)


def npv(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the negative predictive value, at the stated prevalence.

    This is the share of negatives among the patients that are not referred; NaN if all are referred.
    """
    true, false = _positive_shares(predicted, weights)
    return ratio(1 - _prevalence(predicted, weights) - false, 1 - true - false)


METRICS: dict[str, Metric] = {
    "balanced_log_loss": Metric(balanced_log_loss, higher_is_better=False),
    "log_loss": Metric(log_loss, higher_is_better=False),
    "accuracy": Metric(accuracy),
    "sensitivity": Metric(sensitivity),
    "specificity": Metric(specificity),
    "balanced_accuracy": Metric(balanced_accuracy),
    "auc": Metric(auc),
    "auc_pooled": Metric(auc_pooled),
    "brier": Metric(brier, higher_is_better=False),
    "calibration_error": Metric(calibration_error, higher_is_better=False, resampled=False),
    "referred": Metric(referred, higher_is_better=False),
    "ppv": Metric(ppv),
    "npv": Metric(npv),
}


def score_all(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Return every metric of predictions from a single fold, by name; see `Metric.score`."""
    return {name: metric.score(labels, probabilities, threshold) for name, metric in METRICS.items()}
