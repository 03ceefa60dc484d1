"""Calibration of predicted risks at the horizon, in groups of patients with similar risks."""

from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.bounds import quantile, wilson
from mil_toolkit.evaluation.survival_curves import StepCurve, at_risk, kaplan_meier

TRAINING = 40.0  # as `Measure.training`, of the observed risk of a group of predicted risk


@dataclass(frozen=True)
class ObservedRisk:
    """The risk of an event up to a time by the Kaplan-Meier curve, with its 95 % interval.

    followed_to: None if the risk is known; otherwise the last time of follow-up, which is before that time
        and up to which value and interval are
    """

    value: float
    low: float
    high: float
    followed_to: float | None = None


@dataclass(frozen=True)
class RiskGroup:
    """Patients with similar predicted risks: mean predicted risk, and observed risk at the horizon."""

    patients: int
    predicted: float
    observed: ObservedRisk


def groups_of_risk(risks: np.ndarray, count: int) -> np.ndarray:
    """Return the group of each patient, (n,) from 0, the lowest risks: quantiles of the risks (n,).

    Patients of equal risk are in the same group, so that there may be fewer groups.

    >>> groups_of_risk(np.array([0.1, 0.9, 0.5, 0.2, 0.8, 0.4]), 3).tolist()
    [0, 2, 1, 0, 2, 1]
    """
    edges = np.quantile(risks, np.arange(1, count) / count)
    return np.unique(np.searchsorted(edges, risks, side="left"), return_inverse=True)[1]


def calibration_at_horizon(
    times: np.ndarray,
    events: np.ndarray,
    risks: np.ndarray,
    horizon: float,
    count: int = 5,
    widening: float = 1.0,
) -> list[RiskGroup]:
    """Return predicted and observed risk in groups of similar predicted risk.

    times, risks: (n,), the risks of an event up to the horizon; events: (n,) bool
    widening: factor of the variance of the observed risk, see `widening_of_groups`

    The observed risk is that of the group's Kaplan-Meier curve at the horizon (Demler et al. 2015); for its
    interval, see `risk_at`.
    """
    groups = groups_of_risk(risks, count)
    return [
        _group(times[groups == group], events[groups == group], risks[groups == group], horizon, widening)
        for group in np.unique(groups)
    ]


def _group(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, horizon: float, widening: float
) -> RiskGroup:
    return RiskGroup(len(times), float(risks.mean()), risk_at(times, events, horizon, widening))


def widening_of_groups(cross_validated: int) -> float:
    """Return the factor of the variance of the observed risk of a group of predicted risk.

    cross_validated: the number of patients on whom the models were trained and scored in turn. Other training
    patients would put other patients into the group. As for `Measure.training`, benchmarks/coverage_kinds.py
    shows how much is needed.
    """
    return 1 + TRAINING / cross_validated


def risk_at(times: np.ndarray, events: np.ndarray, horizon: float, widening: float = 1.0) -> ObservedRisk:
    """Return the observed risk of patients at the horizon: times (n,), events (n,) bool.

    widening: factor of the variance. The interval is that of `kaplan_meier`. Where the risk is 0 or 1, it is
    Wilson's of a proportion: of a risk of 0, among the patients who are still at risk at the horizon (Dorey
    and Korn 1987, "Effective sample sizes for confidence intervals for survival probabilities"), as of one
    patient if nobody is left; of a risk of 1, among the patients with the event.

    Where follow-up ends before the horizon and the curve is still above 0, the risk at the horizon is
    unknown: that of the last follow-up time is returned, with this time as `followed_to`.
    """
    estimate = kaplan_meier(times, events)
    moments, at = estimate.curve.times, np.array([horizon])
    survival, low, high = (
        float(StepCurve(moments, values).at(at)[0])
        for values in (estimate.curve.values, estimate.low, estimate.high)
    )
    last = float(times.max())
    followed_to = last if last < horizon and survival > 0 else None
    if 0 < survival < 1:
        ends = [_widened(survival, end, widening) for end in (high, low)]
        return ObservedRisk(1 - survival, 1 - ends[0], 1 - ends[1], followed_to)
    count = max(1, at_risk(times, [horizon])[0], int(events.sum()) if survival == 0 else 0)
    bounds = wilson(1 - survival, count / widening, quantile(np.inf))
    return ObservedRisk(1 - survival, bounds.low, bounds.high, followed_to)


def _widened(survival: float, end: float, widening: float) -> float:
    """Return the end of an interval whose width on the scale log(-log) grows by the root of the factor."""
    middle = np.log(-np.log(survival))
    half = np.sqrt(widening) * (np.log(-np.log(end)) - middle)
    return float(np.exp(-np.exp(middle + half)))
