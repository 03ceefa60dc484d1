"""Scores with confidence intervals, reliability curves and paired comparisons.

docs/explanation/evidence.md explains them.
"""

import numpy as np

from mil_toolkit.evaluation.bounds import LEVEL, exact_interval, wilson
from mil_toolkit.evaluation.calibration_error import expected_if_calibrated
from mil_toolkit.evaluation.comparisons import compare, optimism
from mil_toolkit.evaluation.methods import Sample, linear
from mil_toolkit.evaluation.metrics import BINS, Metric, bins_of, calibration_error
from mil_toolkit.evaluation.records import ReliabilityBin, Score, Scores
from mil_toolkit.evaluation.table import DRAWS, Table, draw_patients

__all__ = [
    "DRAWS",
    "LEVEL",
    "Table",
    "compare",
    "draw_patients",
    "exact_interval",
    "optimism",
    "percentile_interval",
    "reliability",
    "scores_with_intervals",
]


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the central 95 % of values, ignoring NaN; NaN if there are no others.

    >>> [round(bound, 3) for bound in percentile_interval(np.array([0.0, 0.5, 1.0, np.nan]))]
    [0.025, 0.975]
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def scores_with_intervals(table: Table) -> Scores:
    """Return the score of every metric, by name.

    The calibration error has no interval, and neither has a difference of two: the gap of a bin enters by its
    size and not by its sign, so it is never below what chance makes of perfectly calibrated predictions. This
    expectation is returned beside it instead.
    """
    sample = Sample(table)
    return {name: _score(sample, name, metric) for name, metric in table.scoring.metrics.items()}


def _score(sample: Sample, name: str, metric: Metric) -> Score:
    table = sample.table
    value = table.score(metric)
    found = linear(sample, name, value)
    low, high = (None, None) if found is None else found.bounds[:2]
    expected = expected_if_calibrated(table.probabilities) if metric.of is calibration_error else None
    known = value if np.isfinite(value) else None
    return Score(known, low, high, len(table.labels), len(table.probabilities), expected)


def reliability(table: Table) -> list[ReliabilityBin]:
    """Return the reliability curve: predicted probability and share of positives in each non-empty bin.

    The mean gap between the two is the calibration error.
    """
    sample, bins = Sample(table), bins_of(table.probabilities)
    return [_reliability_bin(sample, number, bins == number) for number in np.unique(bins)]


def _reliability_bin(sample: Sample, number: int, inside: np.ndarray) -> ReliabilityBin:
    table = sample.table
    times = inside.sum(0)  # (n,) the repeats that put a patient into the bin
    share = float((times * table.labels).sum() / times.sum())
    patients = float(inside.sum(1).mean())
    low, high, _ = wilson(share, max(1.0, patients / sample.design), sample.z)
    return {
        "from": int(number) / BINS,
        "to": (int(number) + 1) / BINS,
        "patients": patients,
        "probability": float(table.probabilities[inside].mean()),
        "share": share,
        "low": low,
        "high": high,
    }
