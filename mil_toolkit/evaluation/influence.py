"""Influence of each patient on a score, from which variances over patients or groups follow.

The influence of a patient is the derivative of the score by the patient's weight (infinitesimal jackknife;
Efron 1982, chapter 6). For the AUC its sum of squares is the variance of DeLong et al. 1988, summed over
groups that of Obuchowski 1997.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mil_toolkit.evaluation.metrics import Predicted, auc, auc_pooled, losses
from mil_toolkit.evaluation.table import Table

_MOST_PAIRS = 2**20  # of patients whose order is compared at a time
LEAST_INFORMATION = 1.0  # on an intercept; the smoothed labels of the calibration (Platt 1999) leave about 2


class Spread(NamedTuple):
    """The variance of a score over samples of groups, and its degrees of freedom (Satterthwaite 1946)."""

    variance: float
    freedom: float


def spread(influence: np.ndarray, units: np.ndarray, strata: np.ndarray) -> Spread:
    """Return the variance of a score from the influences (n,) of its patients.

    units: (n,) the groups, from 0; strata: (n,), within each of which a mean is estimated
    """
    sums = np.bincount(units, influence)
    variance, own, freedom = float(sums @ sums), 0.0, 0.0
    for stratum in np.unique(strata):
        inside = units[strata == stratum]
        parts = np.bincount(inside, influence[strata == stratum])
        square, count = float(parts @ parts), int((np.bincount(inside) > 0).sum())
        own += square
        variance += square / max(1, count - 1)  # unbiased: the mean of each stratum is estimated
        freedom += square**2 / max(1, count - 1)
    return Spread(variance, own**2 / freedom if freedom > 0 else float(len(sums)))


def design_effect(table: Table) -> float:
    """Return how many times the variance of a mean grows because patients of a group are alike.

    It is measured on the distances of prediction and target, which show a dependence also where no decision
    is wrong, and lies between 1 and the mean size of a patient's group.
    """
    if table.groups is None:
        return 1.0
    distances, strata = table.scoring.errors(table.labels, table.probabilities).mean(0), table.strata
    for stratum in np.unique(strata):
        distances[strata == stratum] -= distances[strata == stratum].mean()
    alone = float(distances @ distances)
    grouped = spread(distances, table.units, strata).variance
    return float(np.clip(grouped / alone if alone > 0 else np.inf, 1, mean_size(table.units)))


def mean_size(units: np.ndarray) -> float:
    """Return the size of the group of a patient, averaged over patients.

    >>> mean_size(np.array([0, 0, 0, 1]))
    2.5
    """
    sizes = np.bincount(units)
    return float(sizes @ sizes / sizes.sum())


# Shares of patients.


@dataclass(frozen=True)
class Share:
    """A proportion in R repeats: the share of `hits` among the patients `counted`, both (R, n) bool."""

    hits: np.ndarray
    counted: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The proportion in each repeat, (R,)."""
        return np.asarray((self.hits & self.counted).sum(1) / self.counted.sum(1))

    @property
    def value(self) -> float:
        """The proportion, averaged over repeats."""
        return float(self.values.mean())

    @property
    def count(self) -> float:
        """The number of patients counted, averaged over repeats."""
        return float(self.counted.sum(1).mean())

    @property
    def influences(self) -> np.ndarray:
        """The influence of each patient in each repeat, (R, n)."""
        counts = self.counted.sum(1, keepdims=True)
        return np.asarray(self.counted * (self.hits - self.values[:, None]) / counts)


def _of_label(table: Table, label: int) -> np.ndarray:
    return np.broadcast_to(table.labels == label, table.decisions.shape)


SHARES: dict[str, Callable[[Table], Share]] = {
    "accuracy": lambda table: Share(table.decisions == table.labels, np.ones_like(table.decisions)),
    "sensitivity": lambda table: Share(table.decisions, _of_label(table, 1)),
    "specificity": lambda table: Share(~table.decisions, _of_label(table, 0)),
    "referred": lambda table: Share(table.decisions, np.ones_like(table.decisions)),
    "ppv": lambda table: Share(_of_label(table, 1), table.decisions),
    "npv": lambda table: Share(_of_label(table, 0), ~table.decisions),
}


# Pairs of patients.


@dataclass(frozen=True)
class Concordance:
    """The influence (n,) of each patient on an AUC, and the numbers of patients whose pairs are counted.

    pairs: (K, 2), positives and negatives of each fold of the first repeat
    """

    influence: np.ndarray
    pairs: np.ndarray


def concordance(table: Table, pooled: bool) -> Concordance:
    """Return the influences on the AUC; pooled: whether pairs across folds are counted."""
    repeats = list(table.repeats())
    influence = np.mean([_concordance_influence(repeat, pooled) for repeat in repeats], axis=0)
    return Concordance(influence, _pairs(repeats[0], pooled))


def _pairs(predicted: Predicted, pooled: bool) -> np.ndarray:
    if pooled:
        return np.array([[(predicted.labels == 1).sum(), (predicted.labels == 0).sum()]])
    folds = np.unique(predicted.folds, return_inverse=True)[1]
    counts = np.stack(
        [np.bincount(folds[predicted.labels == label], minlength=folds.max() + 1) for label in (1, 0)], 1
    )
    return counts[counts.all(1)]


def _concordance_influence(predicted: Predicted, pooled: bool) -> np.ndarray:
    """Return the influences (n,) on the AUC of one repeat; memory holds at most _MOST_PAIRS pairs at a time.

    All parts have the same columns, whose sums are added row by row: the parts make no difference.
    """
    positive, negative = (np.flatnonzero(predicted.labels == label) for label in (1, 0))
    total = float(_pairs(predicted, pooled).prod(1).sum())
    share = float((auc_pooled if pooled else auc)(predicted, np.ones(len(predicted.labels))))
    influence, columns = np.zeros(len(predicted.labels)), np.zeros((0, len(negative)))
    for rows in np.array_split(positive, 1 + len(positive) * len(negative) // _MOST_PAIRS):
        excess = _excess(predicted, rows, negative, share, pooled)
        influence[rows] = excess.sum(1) / total
        columns = np.concatenate([columns, excess]).sum(0, keepdims=True)
    influence[negative] = columns[0] / total
    return influence


def _excess(
    predicted: Predicted, positive: np.ndarray, negative: np.ndarray, share: float, pooled: bool
) -> np.ndarray:
    """Return by how much each pair that counts is more concordant than the mean pair, `share`."""
    high, low = predicted.probabilities[positive][:, None], predicted.probabilities[negative]
    wins = (high > low) + 0.5 * (high == low)
    if pooled:
        return np.asarray(wins - share)
    counted = predicted.folds[positive][:, None] == predicted.folds[negative]
    return np.asarray((wins - share) * counted)


# Losses.


@dataclass(frozen=True)
class Mean:
    """A mean of losses.

    influence: (n,), of each patient; strata: (n,), within each of which a mean is estimated
    least: a lower bound of the variance
    """

    influence: np.ndarray
    strata: np.ndarray
    least: float


def mean_loss(table: Table, name: str) -> Mean:
    """Return the influences on log_loss, brier or balanced_log_loss.

    The variance is at least half of that which one more patient on the wrong side would cause, so that a
    model that has not erred yet does not seem certain, least of all where it is confident. The balanced
    log-loss also varies through the calibration (`through_intercept`).
    """
    own, opposite = (_loss(table, labels, name) for labels in (table.labels, 1 - table.labels))
    balanced = name == "balanced_log_loss"
    strata = table.labels if balanced else np.zeros_like(table.labels)
    influence, least = np.zeros(len(own)), 0.0
    share = 1 / len(np.unique(strata))
    for stratum in np.unique(strata):
        inside = strata == stratum
        influence[inside] = share * (own[inside] - own[inside].mean()) / inside.sum()
        least += (share / inside.sum()) ** 2 * float((opposite[inside] ** 2).mean()) / 2
    if balanced and not table.one_model:
        influence += through_intercept(table)
    return Mean(influence, strata, least)


def through_intercept(table: Table) -> np.ndarray:
    """Return the influence of each patient on the balanced log-loss through the calibration, (n,).

    Cross-validated models are calibrated on other patients of the same cohort, for its share of positives. A
    cohort that has more of them by chance moves all logits up, by (label - probability) / sum of p (1 - p)
    for each patient, the influence on the intercept of a logistic regression (van der Vaart 1998, theorem
    5.21). The log-loss and the Brier score have their minimum near the calibrated intercept, so that to first
    order it changes only the balanced log-loss, most where the classes are hard to tell apart. Of a subgroup,
    only its own patients are counted.
    """
    probabilities = table.probabilities.mean(0)
    excess = probabilities - table.labels
    slope = float(np.mean([excess[table.labels == label].mean() for label in np.unique(table.labels)]))
    information = float((probabilities * (1 - probabilities)).mean()) * table.cross_validated
    return np.asarray(-slope * excess / max(LEAST_INFORMATION, information))


def _loss(table: Table, labels: np.ndarray, name: str) -> np.ndarray:
    """Return the loss of each patient for these labels, averaged over repeats."""
    if name == "brier":
        return np.asarray(((table.probabilities - labels) ** 2).mean(0))
    return np.asarray(losses(labels, table.probabilities).mean(0))
