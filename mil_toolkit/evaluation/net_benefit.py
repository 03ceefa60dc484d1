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
    values, errors = _class_means(table, worth) if table.prevalence is not None else _mean(worth)
    return NetBenefit(values, values - _Z * errors, values + _Z * errors)


def _mean(worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard errors over patients."""
    return worth.mean(0), worth.std(0, ddof=1) / np.sqrt(len(worth))


def _class_means(table: Table, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard errors at the stated prevalence, from those of the classes."""
    assert table.prevalence is not None
    shares = {1: table.prevalence, 0: 1 - table.prevalence}
    parts = {label: _mean(worth[table.labels == label]) for label in shares}
    values = sum(shares[label] * mean for label, (mean, _) in parts.items())
    variances = sum((shares[label] * error) ** 2 for label, (_, error) in parts.items())
    return np.asarray(values), np.sqrt(variances)
