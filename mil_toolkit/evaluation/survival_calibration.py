"""Calibration of predicted risks at the horizon, in groups of patients with similar risks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mil_toolkit.evaluation.bounds import quantile, wilson
from mil_toolkit.evaluation.survival_curves import StepCurve, at_risk, kaplan_meier


@dataclass(frozen=True)
class RiskGroup:
    """Patients with similar predicted risks: mean predicted and observed risk with its 95 % interval."""

    patients: int
    predicted: float
    observed: float
    low: float
    high: float


def groups_of_risk(risks: np.ndarray, count: int) -> np.ndarray:
    """Return the group of each patient, (n,) from 0, the lowest risks: quantiles of the risks (n,).

    Patients of equal risk are in the same group, so that there may be fewer groups.

    >>> groups_of_risk(np.array([0.1, 0.9, 0.5, 0.2, 0.8, 0.4]), 3).tolist()
    [0, 2, 1, 0, 2, 1]
    """
    edges = np.quantile(risks, np.arange(1, count) / count)
    return np.unique(np.searchsorted(edges, risks, side="left"), return_inverse=True)[1]


def calibration_at_horizon(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, horizon: float, count: int = 5
) -> list[RiskGroup]:
    """Return predicted and observed risk in groups of similar predicted risk.

    times, risks: (n,), the risks of an event up to the horizon; events: (n,) bool

    The observed risk is that of the group's Kaplan-Meier curve at the horizon (Demler et al. 2015). Where it
    is 0 or 1, its interval is Wilson's of a proportion among the patients who are still at risk at the
    horizon (Dorey and Korn 1987, "Effective sample sizes for confidence intervals for survival
    probabilities").
    """
    groups = groups_of_risk(risks, count)
    return [
        _group(times[groups == group], events[groups == group], risks[groups == group], horizon)
        for group in np.unique(groups)
    ]


def _group(times: np.ndarray, events: np.ndarray, risks: np.ndarray, horizon: float) -> RiskGroup:
    observed = risk_at(times, events, horizon)
    return RiskGroup(len(times), float(risks.mean()), observed.value, observed.low, observed.high)


class ObservedRisk(NamedTuple):
    """The risk of an event up to a time by the Kaplan-Meier curve, with its 95 % interval."""

    value: float
    low: float
    high: float


def risk_at(times: np.ndarray, events: np.ndarray, horizon: float) -> ObservedRisk:
    """Return the observed risk of patients at the horizon: times (n,), events (n,) bool.

    For the interval, see `kaplan_meier` and `calibration_at_horizon`.
    """
    estimate = kaplan_meier(times, events)
    moments, at = estimate.curve.times, np.array([horizon])
    middle, low, high = (
        float(1 - StepCurve(moments, values).at(at)[0])
        for values in (estimate.curve.values, estimate.high, estimate.low)
    )
    if 0 < middle < 1:
        return ObservedRisk(middle, low, high)
    # Those who died were at risk, too, where nobody is left
    count = max(1, at_risk(times, [horizon])[0], int(events.sum()) if middle == 1 else 0)
    bounds = wilson(middle, count, quantile(np.inf))
    return ObservedRisk(middle, bounds.low, bounds.high)
