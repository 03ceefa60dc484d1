"""Share of concordant pairs of patients within folds, for outcomes that order patients."""

from collections.abc import Callable

import numpy as np

from mil_toolkit.evaluation.weighted import ratio, row_sums

Comparable = Callable[[np.ndarray], np.ndarray]
"""A function of the places (m,) of some patients that returns the weight of each ordered pair, (m, m): above
0 where the patient of the row should have a higher score than the patient of the column."""


def concordance(
    scores: np.ndarray, folds: np.ndarray, weights: np.ndarray, comparable: Comparable
) -> np.ndarray:
    """Return the share of comparable pairs within folds whose scores have the right order, (...).

    scores, weights: (..., n); folds: (n,)

    Ties of scores count one half. Pairs across folds are left out because models of different folds have
    different scales. NaN if no pair of one fold is comparable.
    """
    concordant, total = np.zeros(()), np.zeros(())
    for fold in np.unique(folds):
        places = np.flatnonzero(folds == fold)
        own = weights[..., places]
        counted, wins = _counted_and_wins(scores[..., places], comparable(places))
        concordant = concordant + _total(wins, own)
        total = total + _total(counted, own)
    return ratio(concordant, total)


def influence(scores: np.ndarray, folds: np.ndarray, comparable: Comparable) -> np.ndarray:
    """Return the derivative of the concordance by the weight of each patient, (n,): scores, folds (n,).

    Summed over patients, its squares are the variance of DeLong et al. 1988 for an AUC.
    """
    concordant, total = np.zeros(len(scores)), np.zeros(len(scores))
    for fold in np.unique(folds):
        places = np.flatnonzero(folds == fold)
        counted, wins = _counted_and_wins(scores[places], comparable(places))
        concordant[places] = wins.sum(0) + wins.sum(1)
        total[places] = counted.sum(0) + counted.sum(1)
    pairs = total.sum() / 2  # each pair belongs to two patients
    return ratio(concordant - total * ratio(concordant.sum(), total.sum()), pairs)


def _counted_and_wins(scores: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (m, m) of comparable pairs, and those of concordant ones (..., m, m)."""
    high, low = scores[..., :, None], scores[..., None, :]
    return counted, ((high > low) + 0.5 * (high == low)) * counted


def _total(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sum over pairs (..., m, m), weighted by the weights (..., m) of both patients."""
    return np.asarray((row_sums(pairs, weights) * weights).sum(-1))
