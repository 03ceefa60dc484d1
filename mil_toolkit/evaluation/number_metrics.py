"""Metrics of predicted numbers, collected in `NUMBER_METRICS`.

A metric takes `NumberPredicted` and weights (..., n) of the patients, and returns scores (...). Predictions
and weights may both have leading axes, as in metrics.py. The two scores of the order of the patients compare
only patients of the same fold: a model of a fold whose held-out patients have high values was trained on
patients with lower ones, so that across folds useless predictions have the wrong order on average.
"""

from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation import pairs
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.weighted import mean, ratio, row_sums


@dataclass(frozen=True)
class NumberPredicted:
    """Predicted numbers of n patients.

    targets: (n,); values: (..., n), the predictions, in the unit of the targets
    folds: (n,), the outer fold that held the patient out
    """

    targets: np.ndarray
    values: np.ndarray
    folds: np.ndarray


def mae(predicted: NumberPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean absolute error, in the unit of the target."""
    return mean(np.abs(predicted.values - predicted.targets), weights)


def rmse(predicted: NumberPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the root of the mean squared error, in the unit of the target."""
    return np.sqrt(_squared_error(predicted, weights))


def r2(predicted: NumberPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of the target's variance that the predictions explain.

    This is 1 - squared error / variance (Kvålseth 1985, eq. 1), below 0 for predictions that are worse than
    the mean of these patients. NaN if the targets are all equal.
    """
    centre = mean(predicted.targets, weights)
    variance = mean((predicted.targets - centre[..., None]) ** 2, weights)
    return 1 - ratio(_squared_error(predicted, weights), variance)


def _squared_error(predicted: NumberPredicted, weights: np.ndarray) -> np.ndarray:
    return mean((predicted.values - predicted.targets) ** 2, weights)


def spearman(predicted: NumberPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks within folds (Spearman 1904, with mean ranks of ties).

    Covariance and variances of the ranks are summed over folds. A weight is a number of copies of a patient.
    NaN if targets or predictions are all equal in every fold.
    """
    together, targets, values = np.zeros(()), np.zeros(()), np.zeros(())
    for fold in np.unique(predicted.folds):
        inside = predicted.folds == fold
        own = weights[..., inside]
        one = _centred_ranks(predicted.targets[inside], own)
        other = _centred_ranks(predicted.values[..., inside], own)
        together = together + (own * one * other).sum(-1)
        targets = targets + (own * one**2).sum(-1)
        values = values + (own * other**2).sum(-1)
    return ratio(together, np.sqrt(targets * values))


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean rank of each patient minus the mean of these ranks, (..., m)."""
    below = values[..., None, :] < values[..., :, None]
    tied = values[..., None, :] == values[..., :, None]
    ranks = row_sums(below + 0.5 * tied, weights)
    return ranks - mean(ranks, weights)[..., None]


def concordance(predicted: NumberPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of pairs of patients with different targets in the same fold that are ordered rightly.

    It is Harrell's concordance without censoring. Equal predictions count one half.
    """
    return pairs.concordance(predicted.values, predicted.folds, weights, _higher(predicted.targets))


def _higher(targets: np.ndarray) -> pairs.Comparable:
    return lambda places: (targets[places][:, None] > targets[places]).astype(float)


def _concordance_influence(predicted: NumberPredicted) -> np.ndarray:
    return pairs.influence(predicted.values, predicted.folds, _higher(predicted.targets))


def through_intercept(predicted: NumberPredicted) -> np.ndarray:
    """Return the influence of each patient on the mean absolute error through the models' intercept, (n,).

    values: (n,). Cross-validated models learn the mean of the same cohort. A patient moves it by the residual
    divided by n, and the error changes with it where more patients lie below than above their prediction, as
    with skewed targets. The squared error has its minimum near the mean, so it changes only to second order.
    """
    excess = predicted.values - predicted.targets
    return np.asarray(-np.sign(excess).mean() * excess / len(excess))


NUMBER_METRICS: dict[str, Measure[NumberPredicted]] = {
    "mae": Measure(mae, "positive", higher_is_better=False, training=20, through_training=through_intercept),
    "rmse": Measure(rmse, "positive", higher_is_better=False, training=30),
    "r2": Measure(r2, "explained", training=30),
    "spearman": Measure(spearman, "correlation", training=10),
    "concordance": Measure(concordance, "share", training=10, influence=_concordance_influence),
}
