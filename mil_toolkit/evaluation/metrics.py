"""`METRICS`: what a set of predictions is worth. The unit is always the patient.

A metric takes `Predicted` and weights of the patients, and both may have leading axes: two thousand draws of the
patients, or as many swaps of two methods, are scored in one call. That is why these are not scikit-learn's own
functions, which take one set of weights at a time; the tests hold them equal to those.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 10  # of equal width, for the calibration error and its curve
_LEAST = np.finfo(float).eps  # of a probability under a logarithm, as in scikit-learn


@dataclass(frozen=True)
class Predicted:
    """Predictions for n patients.

    labels: (n,) of 0 and 1; folds: (n,) the outer fold each was predicted in
    probabilities: (..., n) of the positive class; decisions: (..., n) bool
    prevalence: share of positives for the predictive values; None takes that of the weighted patients
    """

    labels: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray
    folds: np.ndarray
    prevalence: float | None = None


Score = Callable[[Predicted, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A score of predictions under weights (..., n) of the patients.

    proportions: for shares of patients, the label of those each is a share of; -1: all patients
    resampled: whether draws of the patients show how far the score would move with other patients
    """

    of: Score
    higher_is_better: bool = True
    proportions: tuple[int, ...] = ()
    resampled: bool = True

    def score(self, labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
        """The score of plain predictions, all in one fold: labels (n,), probabilities (n,)."""
        decisions, folds = probabilities >= threshold, np.zeros(len(labels))
        return float(self.of(Predicted(labels, probabilities, decisions, folds), np.ones(len(labels))))


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (values * weights).sum(-1) / weights.sum(-1)


def _of_class(label: int, predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    return weights * (predicted.labels == label)


def _losses(predicted: Predicted) -> np.ndarray:
    of_label = np.where(predicted.labels == 1, predicted.probabilities, 1 - predicted.probabilities)
    return -np.log(np.clip(of_label, _LEAST, 1 - _LEAST))


def log_loss(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Mean log-loss in nats."""
    return _mean(_losses(predicted), weights)


def balanced_log_loss(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Log-loss in nats with both classes of the same total weight."""
    losses = _losses(predicted)
    negative, positive = (_mean(losses, _of_class(label, predicted, weights)) for label in (0, 1))
    return (negative + positive) / 2


def accuracy(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of patients predicted rightly."""
    return _mean(predicted.decisions == predicted.labels, weights)


def sensitivity(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of the positive patients that are predicted positive."""
    return _mean(predicted.decisions, _of_class(1, predicted, weights))


def specificity(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of the negative patients that are predicted negative."""
    return _mean(~predicted.decisions, _of_class(0, predicted, weights))


def balanced_accuracy(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Mean of sensitivity and specificity."""
    return (sensitivity(predicted, weights) + specificity(predicted, weights)) / 2


def auc(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of concordant pairs of a positive and a negative patient of the same fold, ties counting a half.

    Models of different folds have different scales, so that a pair across folds says nothing.
    """
    positive, negative = predicted.labels == 1, predicted.labels == 0
    together = predicted.folds[positive][:, None] == predicted.folds[negative]
    return _concordance(predicted, weights, together)


def auc_pooled(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of all patients, pairs across folds included."""
    return _concordance(predicted, weights, np.array(1.0))


def _concordance(predicted: Predicted, weights: np.ndarray, counted: np.ndarray) -> np.ndarray:
    positive, negative = predicted.labels == 1, predicted.labels == 0
    high = predicted.probabilities[..., positive][..., :, None]
    low = predicted.probabilities[..., negative][..., None, :]
    wins = ((high > low) + 0.5 * (high == low)) * counted  # (..., positives, negatives)
    pairs = np.broadcast_to(counted, wins.shape[-2:]).astype(float)
    rows, columns = weights[..., positive][..., None, :], weights[..., negative]
    won, of = (((rows @ each)[..., 0, :] * columns).sum(-1) for each in (wins, pairs))
    return _ratio(won, of)  # folds of one class each leave no pair


def brier(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and label."""
    return _mean((predicted.probabilities - predicted.labels) ** 2, weights)


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """The bin of each probability, from 0: BINS of equal width."""
    return np.minimum((probabilities * BINS).astype(int), BINS - 1)


def calibration_error(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over ten bins of equal width; Naeini et al. 2015."""
    bins = bins_of(predicted.probabilities)
    surplus = (predicted.probabilities - predicted.labels) * weights
    gaps = [np.abs((surplus * (bins == each)).sum(-1)) for each in range(BINS)]
    return sum(gaps) / weights.sum(-1)


def _rates(predicted: Predicted, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of all patients at the stated prevalence: positive and referred, negative and referred."""
    prevalence = predicted.prevalence
    share = _mean(predicted.labels == 1, weights) if prevalence is None else np.float64(prevalence)
    missed = 1 - specificity(predicted, weights)
    return sensitivity(predicted, weights) * share, missed * (1 - share)


def referred(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of patients referred to flow cytometry (predicted positive), at the stated prevalence."""
    true, false = _rates(predicted, weights)
    return true + false


def ppv(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of positives among the referred, at the stated prevalence; NaN where nobody is referred."""
    true, false = _rates(predicted, weights)
    return _ratio(true, true + false)


def npv(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Share of negatives among those not referred, at the stated prevalence; NaN where all are referred."""
    true, false = _rates(predicted, weights)
    prevalence = predicted.prevalence
    share = _mean(predicted.labels == 1, weights) if prevalence is None else np.float64(prevalence)
    return _ratio(1 - share - false, 1 - true - false)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


METRICS: dict[str, Metric] = {
    "balanced_log_loss": Metric(balanced_log_loss, higher_is_better=False),
    "log_loss": Metric(log_loss, higher_is_better=False),
    "accuracy": Metric(accuracy, proportions=(-1,)),
    "sensitivity": Metric(sensitivity, proportions=(1,)),
    "specificity": Metric(specificity, proportions=(0,)),
    "balanced_accuracy": Metric(balanced_accuracy, proportions=(0, 1)),
    "auc": Metric(auc),
    "auc_pooled": Metric(auc_pooled),
    "brier": Metric(brier, higher_is_better=False),
    "calibration_error": Metric(calibration_error, higher_is_better=False, resampled=False),
    "referred": Metric(referred, higher_is_better=False),
    "ppv": Metric(ppv),
    "npv": Metric(npv),
}


def score_all(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Every metric of plain predictions, by name; see `Metric.score`."""
    return {name: metric.score(labels, probabilities, threshold) for name, metric in METRICS.items()}
