"""Metrics of predicted numbers, collected in `NUMBER_METRICS`.

A metric takes `Predicted`, whose labels (n,) are the targets and whose probabilities (..., n) the predicted
numbers in the same unit, and weights (..., n) of the patients. It returns scores (...). The two scores of the
order of the patients compare only patients of the same fold: a model of a fold whose held-out patients have
high values was trained on patients with lower ones, so that across folds useless predictions have the wrong
order on average.
"""

import numpy as np

from mil_toolkit.evaluation import pairs
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.weighted import mean, ratio


def mae(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean absolute error, in the unit of the target."""
    return mean(np.abs(predicted.probabilities - predicted.labels), weights)


def rmse(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the root of the mean squared error, in the unit of the target."""
    return np.sqrt(_squared_error(predicted, weights))


def r2(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of the target's variance that the predictions explain.

    This is 1 - squared error / variance (Kvålseth 1985, eq. 1), below 0 for predictions that are worse than
    the mean of these patients. NaN if the targets are all equal.
    """
    centre = mean(predicted.labels, weights)
    variance = mean((predicted.labels - centre[..., None]) ** 2, weights)
    return 1 - ratio(_squared_error(predicted, weights), variance)


def _squared_error(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    return mean((predicted.probabilities - predicted.labels) ** 2, weights)


def spearman(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks within folds (Spearman 1904, with mean ranks of ties).

    Covariance and variances of the ranks are summed over folds. A weight is a number of copies of a patient.
    NaN if targets or predictions are all equal in every fold.
    """
    together, targets, values = np.zeros(()), np.zeros(()), np.zeros(())
    for fold in np.unique(predicted.folds):
        inside = predicted.folds == fold
        own = weights[..., inside]
        one = _centred_ranks(predicted.labels[inside], own)
        other = _centred_ranks(predicted.probabilities[..., inside], own)
        together = together + (own * one * other).sum(-1)
        targets = targets + (own * one**2).sum(-1)
        values = values + (own * other**2).sum(-1)
    return ratio(together, np.sqrt(targets * values))


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean rank of each patient minus the mean of these ranks, (..., m).

    The rank is the weight of the patients with smaller values and half of the weight of those with the same.
    """
    values, weights = np.broadcast_arrays(values, weights)
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, -1)
    below = np.cumsum(np.take_along_axis(weights, order, -1), axis=-1)  # with the patient's own weight
    places = np.arange(values.shape[-1])
    new = np.diff(ordered, axis=-1) > 0
    edge = np.ones((*ordered.shape[:-1], 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, new], -1), places, 0), axis=-1)
    last = np.minimum.accumulate(
        np.where(np.concatenate([new, edge], -1), places, places[-1])[..., ::-1], axis=-1
    )[..., ::-1]
    before = np.concatenate([np.zeros((*below.shape[:-1], 1)), below], -1)
    means = (np.take_along_axis(before, first, -1) + np.take_along_axis(below, last, -1)) / 2
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, means, -1)
    return ranks - mean(ranks, weights)[..., None]


def concordance(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of pairs of patients with different targets in the same fold that are ordered rightly.

    It is Harrell's concordance without censoring. Equal predictions count one half.
    """
    return pairs.concordance(predicted.probabilities, predicted.folds, weights, _higher(predicted.labels))


def _higher(targets: np.ndarray) -> pairs.Comparable:
    return lambda places: (targets[places][:, None] > targets[places]).astype(float)


def _concordance_influence(predicted: Predicted) -> np.ndarray:
    return pairs.influence(predicted.probabilities, predicted.folds, _higher(predicted.labels))


def through_intercept(predicted: Predicted) -> np.ndarray:
    """Return the influence of each patient on the mean absolute error through the models' intercept, (n,).

    values: (n,). Cross-validated models learn the mean of the same cohort. A patient moves it by the residual
    divided by n, and the error changes with it where more patients lie below than above their prediction, as
    with skewed targets. The squared error has its minimum near the mean, so it changes only to second order.
    """
    excess = predicted.probabilities - predicted.labels
    return np.asarray(-np.sign(excess).mean() * excess / len(excess))


NUMBER_METRICS: dict[str, Measure[Predicted]] = {
    "mae": Measure(mae, "positive", higher_is_better=False, training=20, through_training=through_intercept),
    "rmse": Measure(rmse, "positive", higher_is_better=False, training=30),
    "r2": Measure(r2, "explained", training=30),
    "spearman": Measure(spearman, "correlation", training=10),
    "concordance": Measure(concordance, "share", training=10, influence=_concordance_influence),
}
