"""Kaplan-Meier curves of events and of censoring, their intervals, numbers at risk, and the log-rank test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.bounds import quantile


@dataclass(frozen=True)
class StepCurve:
    """A survival function that falls at T times.

    times: (T,), ascending and different; values: (T,), from each time on; before the first the value is 1
    """

    times: np.ndarray
    values: np.ndarray

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the values at times of any shape; after the last time, the last value."""
        places = np.searchsorted(self.times, times, side="right")
        return np.concatenate([[1.0], self.values])[places]


@dataclass(frozen=True)
class KaplanMeier:
    """A Kaplan-Meier curve with its pointwise 95 % interval, (T,) each; see `StepCurve`."""

    curve: StepCurve
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class LogRank:
    """The log-rank statistic, its degrees of freedom and p-value; None if there is nothing to compare."""

    statistic: float | None
    freedom: int
    p_value: float | None


@dataclass(frozen=True)
class _Counts:
    """The patients who are at risk just before each of T different times, and those who leave, (T,) each."""

    times: np.ndarray
    at_risk: np.ndarray
    events: np.ndarray
    censored: np.ndarray


def _counts(times: np.ndarray, events: np.ndarray) -> _Counts:
    moments, place = np.unique(times, return_inverse=True)
    died = np.bincount(place, events.astype(float), minlength=len(moments))
    left = np.bincount(place, minlength=len(moments))
    at_risk = len(times) - np.concatenate([[0], np.cumsum(left)[:-1]])
    return _Counts(moments, at_risk, died, left - died)


def survival_curve(times: np.ndarray, events: np.ndarray) -> StepCurve:
    """Return the share of patients without the event at each time (Kaplan and Meier 1958).

    times: (n,); events: (n,) bool, False for censored patients, who are at risk up to their time inclusive
    """
    counts = _counts(times, events)
    return StepCurve(counts.times, np.cumprod(1 - counts.events / counts.at_risk))


def censoring_curve(times: np.ndarray, events: np.ndarray) -> StepCurve:
    """Return the share of patients who are not censored up to each time: times (n,), events (n,) bool.

    The Kaplan-Meier curve of the censoring, in which a patient with the event is at risk before the event
    only: at equal times, events come before censoring.
    """
    counts = _counts(times, events)
    at_risk = counts.at_risk - counts.events
    hazards = counts.censored / np.where(at_risk > 0, at_risk, 1)
    return StepCurve(counts.times, np.cumprod(1 - hazards))


def kaplan_meier(times: np.ndarray, events: np.ndarray) -> KaplanMeier:
    """Return the Kaplan-Meier curve with intervals on the scale log(-log) (Borgan and Liestøl 1990).

    times: (n,); events: (n,) bool. Where the curve is 1 or 0, the interval has no width.
    """
    counts, curve = _counts(times, events), survival_curve(times, events)
    survivors = counts.at_risk - counts.events
    defined = (curve.values > 0) & (curve.values < 1)
    parts = counts.events / (counts.at_risk * np.where(survivors > 0, survivors, 1))  # Greenwood 1926
    log = np.log(np.where(defined, curve.values, 0.5))
    width = quantile(np.inf) * np.sqrt(np.cumsum(parts)) / log  # negative
    low, high = (np.where(defined, np.exp(log * np.exp(sign * width)), curve.values) for sign in (-1, 1))
    return KaplanMeier(curve, low, high)


def at_risk(times: np.ndarray, moments: Sequence[float]) -> list[int]:
    """Return how many patients are still at risk at each moment: times (n,).

    >>> at_risk(np.array([1.0, 2.0, 3.0]), [0, 2, 4])
    [3, 2, 0]
    """
    return [int((times >= moment).sum()) for moment in moments]


def log_rank(times: np.ndarray, events: np.ndarray, groups: np.ndarray) -> LogRank:
    """Return the test that the groups have the same survival (Mantel 1966; Peto and Peto 1972).

    times, groups: (n,); events: (n,) bool

    With G groups, the statistic is the quadratic form of observed minus expected events in G - 1 degrees of
    freedom (Fleming and Harrington 1981). There is nothing to compare in a single group, or where no event
    happens while patients of several groups are at risk.
    """
    names, units = np.unique(groups, return_inverse=True)
    moments = np.unique(times[events])
    inside = (units == np.arange(len(names))[:, None]).astype(float)  # (G, n)
    risk = inside @ (times[:, None] >= moments)  # (G, T)
    died = inside @ ((times[:, None] == moments) & events[:, None])
    total, all_died = risk.sum(0), died.sum(0)
    excess = (died - risk * all_died / total).sum(1)
    spread = all_died * (total - all_died) / np.where(total > 1, total - 1, 1)
    shares = risk / total
    covariance = np.diag((spread * shares).sum(1)) - (spread * shares) @ shares.T
    freedom = int(np.linalg.matrix_rank(covariance)) if len(moments) else 0
    if freedom == 0:
        return LogRank(None, 0, None)
    from scipy.stats import chi2  # takes long to import

    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    return LogRank(statistic, freedom, float(chi2.sf(statistic, freedom)))
