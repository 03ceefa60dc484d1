"""ROC and precision-recall curves with 95 % bands, from the resamples that give the scores' intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.intervals import LEVEL, Table, draw_patients

GRID = np.linspace(0, 1, 101)
_AT_ONCE = 4_000_000  # resamples times patients that are computed at once


@dataclass(frozen=True)
class Curve:
    """A curve over GRID, averaged over repeats, and its 95 % band: (G,) each, NaN where undefined."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


Rates = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # labels, probabilities, weights -> curves


def roc(table: Table) -> Curve:
    """Return the highest sensitivity up to each false positive rate of GRID, pooled over folds."""
    return _curve(table, _sensitivity_at_most)


def precision_recall(table: Table) -> Curve:
    """Return the precision at the highest threshold that reaches each recall of GRID, pooled over folds."""
    return _curve(table, _precision_at_least)


def _curve(table: Table, rates: Rates) -> Curve:
    equal = np.ones((1, len(table.labels)))
    if table.one_unit:  # nothing shows how much groups differ
        unknown = np.full(len(GRID), np.nan)
        return Curve(_mean_over_repeats(table, rates, equal)[0], unknown, unknown)
    weights = draw_patients(table.labels, groups=table.groups)
    parts = np.array_split(weights, max(1, weights.size // _AT_ONCE))
    drawn = np.concatenate([_mean_over_repeats(table, rates, part) for part in parts])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Curve(_mean_over_repeats(table, rates, equal)[0], low, high)


def _mean_over_repeats(table: Table, rates: Rates, weights: np.ndarray) -> np.ndarray:
    return np.mean([rates(table.labels, row, weights) for row in table.probabilities], axis=0)


def _counts(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of positives and of negatives above each cut, highest first: (draws, cuts + 1)."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)  # ties share a cut
    sums = []
    for label in (1, 0):
        total = np.cumsum(weights[:, order] * (labels[order] == label), axis=1)[:, ends]
        sums.append(np.pad(total, ((0, 0), (1, 0))))
    return sums[0], sums[1]


def _sensitivity_at_most(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positives, negatives = _counts(labels, probabilities, weights)
    sensitivity, false = positives / positives[:, -1:], negatives / negatives[:, -1:]
    places = [np.searchsorted(row, GRID + 1e-9, side="right") - 1 for row in false]
    return np.take_along_axis(sensitivity, np.array(places), axis=1)


def _precision_at_least(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positives, negatives = _counts(labels, probabilities, weights)
    recall = positives / positives[:, -1:]
    # Precision is undefined before the first positive; recall 0 takes the precision of the first cut that has
    # one.
    recalls = np.maximum(GRID, 1e-6) - 1e-9
    places = np.array([np.searchsorted(row, recalls, side="left") for row in recall])
    predicted = positives + negatives
    return np.take_along_axis(positives / np.where(predicted > 0, predicted, 1), places, axis=1)
