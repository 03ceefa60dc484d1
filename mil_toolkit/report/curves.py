"""Curves of predictions, with 95 % bands from the draws of patients that the scores' intervals come from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.intervals import LEVEL, Table, draw_patients

GRID = np.linspace(0, 1, 101)
_AT_ONCE = 4_000_000  # draws times patients


@dataclass(frozen=True)
class Curve:
    """A curve over GRID, averaged over repeats, and its 95 % band: (G,) each, NaN where it is not defined."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


Rates = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def roc(table: Table) -> Curve:
    """The highest sensitivity at each false positive rate of GRID or below; probabilities pooled over folds."""
    return _curve(table, _sensitivity_at_most)


def precision_recall(table: Table) -> Curve:
    """The precision at the highest threshold that reaches each recall of GRID; probabilities pooled over folds."""
    return _curve(table, _precision_at_least)


def _curve(table: Table, rates: Rates) -> Curve:
    alike, weights = np.ones((1, len(table.labels))), draw_patients(table.labels)
    parts = np.array_split(weights, max(1, weights.size // _AT_ONCE))
    drawn = np.concatenate([_mean_over_repeats(table, rates, part) for part in parts])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Curve(_mean_over_repeats(table, rates, alike)[0], low, high)


def _mean_over_repeats(table: Table, rates: Rates, weights: np.ndarray) -> np.ndarray:
    return np.mean([rates(table.labels, each, weights) for each in table.probabilities], axis=0)


def _found(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the positives and of the negatives at or above each cut, the highest first: (draws, cuts + 1)."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)  # ties fall together
    sums = []
    for label in (1, 0):
        total = np.cumsum(weights[:, order] * (labels[order] == label), axis=1)[:, ends]
        sums.append(np.pad(total, ((0, 0), (1, 0))))
    return sums[0], sums[1]


def _sensitivity_at_most(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positives, negatives = _found(labels, probabilities, weights)
    sensitivity, false = positives / positives[:, -1:], negatives / negatives[:, -1:]
    places = [np.searchsorted(row, GRID + 1e-9, side="right") - 1 for row in false]
    return np.take_along_axis(sensitivity, np.array(places), axis=1)


def _precision_at_least(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positives, negatives = _found(labels, probabilities, weights)
    recall = positives / positives[:, -1:]
    # Before anybody is found there is no precision: recall 0 takes that of the first cut that finds somebody.
    asked = np.maximum(GRID, 1e-6) - 1e-9
    places = np.array([np.searchsorted(row, asked, side="left") for row in recall])
    found = positives + negatives
    return np.take_along_axis(positives / np.where(found > 0, found, 1), places, axis=1)
