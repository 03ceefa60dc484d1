"""Survival in discrete time: cut points, the interval of each patient's time, and curves from hazards."""

from typing import NamedTuple

import numpy as np


class Intervals(NamedTuple):
    """What each of n patients shows of T intervals of time.

    survived: (n,), the number of intervals that the patient is known to have outlived, from the first on
    event: (n,) bool, whether the event happened in the next interval
    """

    survived: np.ndarray
    event: np.ndarray


def choose_cuts(times: np.ndarray, events: np.ndarray, count: int, horizon: float) -> np.ndarray:
    """Return the ends of at most `count` intervals of time from 0 on, ascending; the horizon is one of them.

    times: (n,) of training patients; events: (n,) bool, at least one of them True

    The ends are quantiles of the event times, so that each interval has about as many events (Kvamme and
    Borgan 2021 discuss the choice), and the one that is nearest to the horizon is replaced by it. Equal event
    times leave fewer intervals.

    >>> choose_cuts(np.arange(1.0, 9.0), np.ones(8, dtype=bool), count=4, horizon=5.0).tolist()
    [2.75, 5.0, 6.25, 8.0]
    """
    ends = np.quantile(times[events], np.arange(1, count + 1) / count)
    ends[np.abs(ends - horizon).argmin()] = horizon
    return np.unique(ends)


def to_intervals(times: np.ndarray, events: np.ndarray, cuts: np.ndarray) -> Intervals:
    """Return the interval of each patient's time: times (n,), events (n,) bool, cuts (T,).

    Interval j lasts from the end of the one before it, exclusive, to cuts[j], inclusive. A censored patient
    has outlived the intervals that ended up to then; a patient with a later time than the last cut has
    outlived all.

    >>> to_intervals(np.array([1.0, 2.0, 2.5]), np.array([True, False, True]), np.array([2.0, 4.0]))
    Intervals(survived=array([0, 1, 1]), event=array([ True, False,  True]))
    """
    event = events & (times <= cuts[-1])
    reached, ended = (np.searchsorted(cuts, times, side=side) for side in ("left", "right"))
    return Intervals(np.where(event, reached, ended), event)


def hazard_rows(intervals: Intervals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a row for each interval that a patient enters: patient, interval, and 1 if it has the event.

    A patient who was censored in an interval does not enter it. Each row is an observation of a hazard, so
    that regressions of classes apply (Cox 1972, section 6).

    >>> rows = hazard_rows(Intervals(np.array([1, 2]), np.array([True, False])))
    >>> [column.tolist() for column in rows]
    [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]]
    """
    counts = intervals.survived + intervals.event
    patient = np.repeat(np.arange(len(counts)), counts)
    interval = np.arange(len(patient)) - np.repeat(np.cumsum(counts) - counts, counts)
    return patient, interval, (interval == intervals.survived[patient]).astype(int)


def survival_from_logits(logits: np.ndarray) -> np.ndarray:
    """Return the survival at the cut points from the logits of the hazards: (..., T) -> (..., T).

    The survival is the product of 1 - hazard up to each cut (Kvamme and Borgan 2021, section 2).
    """
    return np.exp(-np.cumsum(np.logaddexp(0, logits), axis=-1))


def survival_at(times: np.ndarray, cuts: np.ndarray, survival: np.ndarray) -> np.ndarray:
    """Return the survival at times (m,) from that at the cut points: (..., T) -> (..., m).

    It is linear between the cut points (constant density interpolation of Kvamme and Borgan 2021),
    1 at time 0, and constant after the last cut. Of a repeated cut, the last value counts.
    """
    ends = np.concatenate([[0.0], cuts])
    values = np.concatenate([np.ones((*survival.shape[:-1], 1)), survival], axis=-1)
    right = np.clip(np.searchsorted(ends, times, side="right"), 1, len(cuts))
    start, end = ends[right - 1], ends[right]
    share = np.where(end > start, (times - start) / np.where(end > start, end - start, 1), 1.0)
    share = np.clip(share, 0, 1)
    return np.asarray(values[..., right - 1] * (1 - share) + values[..., right] * share)


def risk_at(horizon: float, cuts: np.ndarray, survival: np.ndarray) -> np.ndarray:
    """Return the probability of an event up to the horizon: survival (..., T) at the cuts (T,) -> (...)."""
    return 1 - survival_at(np.array([horizon]), cuts, survival)[..., 0]
