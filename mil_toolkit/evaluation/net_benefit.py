"""Decision curves: what referring patients by a model is worth, against referring all or none.

The net benefit at threshold t is TP / n - FP / n * t / (1 - t), in true positives per patient (Vickers and
Elkin 2006). t is the probability at which a clinic would just refer a patient: at t = 0.1, nine needless
referrals are as bad as one missed patient.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from mil_toolkit.evaluation.intervals import LEVEL, Table

_Z = float(norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit at each threshold and its pointwise 95 % band, (T,) each."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def net_benefit(table: Table, thresholds: np.ndarray) -> NetBenefit:
    """Return the net benefit of referring every patient whose probability reaches the threshold.

    thresholds: (T,), between 0 and 1. With a stated prevalence, the classes are weighted accordingly.
    """
    referred = (table.probabilities[..., None] >= thresholds).mean(0)  # (n, T), averaged over repeats
    return _net_benefit(table, referred, thresholds)


def net_benefit_of_all(table: Table, thresholds: np.ndarray) -> NetBenefit:
    """Return the net benefit of referring every patient."""
    return _net_benefit(table, np.ones((len(table.labels), len(thresholds))), thresholds)


def _net_benefit(table: Table, referred: np.ndarray, thresholds: np.ndarray) -> NetBenefit:
    harm = thresholds / (1 - thresholds)
    worth = np.where(table.labels[:, None] == 1, 1.0, -harm) * referred  # (n, T)
    weights, strata = _weights(table)
    values = weights @ worth
    influences = weights[:, None] * (worth - _stratum_means(worth, strata))
    errors = np.sqrt((_sums(influences, table.units) ** 2).sum(0))
    if table.one_unit:  # nothing shows how much groups differ
        errors = np.full_like(errors, np.nan)
    return NetBenefit(values, values - _Z * errors, values + _Z * errors)


def _weights(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of each patient in a mean, (n,), and the strata whose shares are given, (n,).

    With a stated prevalence, these are the classes; without one, there is a single stratum.
    """
    labels = table.labels
    if table.prevalence is None:
        return np.full(len(labels), 1 / len(labels)), np.zeros(len(labels))
    shares = np.where(labels == 1, table.prevalence, 1 - table.prevalence)
    return shares / np.bincount(labels)[labels], labels


def _stratum_means(worth: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the mean of each patient's stratum, (n, T)."""
    means = np.empty_like(worth)
    for stratum in np.unique(strata):
        means[strata == stratum] = worth[strata == stratum].mean(0)
    return means


def _sums(influences: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return the sum of each group's influences, (G, T): patients of a group may depend on each other."""
    sums = np.zeros((int(units.max()) + 1, influences.shape[1]))
    np.add.at(sums, units, influences)
    return sums
