"""Calibration of held-out predictions: intercept, slope and a smooth curve, each with its uncertainty.

All three are logistic regressions of the outcome on the logit of the predicted probability (Cox 1958; Van
Calster et al. 2019, "Calibration: the Achilles heel of predictive analytics"). A patient's repeats are one
cluster, and so is a group of patients: the variances are those of Liang and Zeger (1986, eq. 5). As groups
may be few, their intervals use Student's distribution, as those of the other scores do; a single group shows
no variance and gets no interval.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from mil_toolkit.evaluation.bounds import quantile
from mil_toolkit.evaluation.intervals import LEVEL, Table
from mil_toolkit.evaluation.records import Estimate

KNOTS = (
    0.1,
    0.5,
    0.9,
)  # quantiles of the logits; three knots suit small samples (Harrell 2015, section 2.4.6)
POINTS = 101  # of the smooth curve
_Z = float(norm.ppf((1 + LEVEL) / 2))
_SMALLEST = 1e-6  # probabilities closer to 0 or 1 are taken as this one
_STEPS, _TOLERANCE = 50, 1e-8  # of Newton's method
_STEEPEST = 50.0  # a coefficient beyond this shows separable classes, whose slope is infinite


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted probabilities with outcomes; all are None where a fit does not exist.

    intercept: calibration in the large, 0 if the mean prediction is right; its slope is fixed at 1
    slope: 1 if the predictions are neither too extreme (below 1) nor too moderate (above 1)
    """

    intercept: Estimate
    slope: Estimate


@dataclass(frozen=True)
class SmoothCurve:
    """Share of positives against the predicted probability, with a pointwise 95 % band; (G,) each."""

    probabilities: np.ndarray
    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class _Fit:
    """Coefficients (k,) of a logistic regression and their covariance (k, k)."""

    coefficients: np.ndarray
    covariance: np.ndarray


def calibration(table: Table) -> Calibration:
    """Return intercept and slope of held-out predictions, pooled over repeats."""
    logits, labels, clusters = _stacked(table)
    ones = np.ones((len(logits), 1))
    in_the_large = _fit(ones, labels, clusters, offset=logits)
    line = _fit(np.column_stack([ones, logits]), labels, clusters)
    z = _quantile(table)
    return Calibration(_estimate(in_the_large, 0, z), _estimate(line, 1, z))


def smooth_curve(table: Table) -> SmoothCurve | None:
    """Return a smooth calibration curve by a restricted cubic spline; None where it cannot be fitted.

    The curve covers the range of the predictions. If these are too few for a spline, it is a straight line on
    the logit scale. Its band is NaN where all patients are in one group.
    """
    logits, labels, clusters = _stacked(table)
    knots = np.unique(np.quantile(logits, KNOTS)) if len(np.unique(logits)) > len(KNOTS) else logits[:0]
    fit = _fit(_spline(logits, knots), labels, clusters)
    if fit is None:
        return None
    grid = np.linspace(logits.min(), logits.max(), POINTS)
    design = _spline(grid, knots)
    middle = design @ fit.coefficients
    margin = _quantile(table) * np.sqrt(np.einsum("gi,ij,gj->g", design, fit.covariance, design))
    return SmoothCurve(expit(grid), expit(middle), expit(middle - margin), expit(middle + margin))


def _quantile(table: Table) -> float:
    """Return the quantile of the intervals, by groups - 1 degrees of freedom; NaN for a single group."""
    if table.groups is None:
        return _Z
    return float("nan") if table.one_unit else quantile(int(table.units.max()))


def _stacked(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, labels and clusters of all patients in all repeats, (R * n,) each."""
    repeats = len(table.probabilities)
    logits = logit(np.clip(table.probabilities, _SMALLEST, 1 - _SMALLEST)).ravel()
    return logits, np.tile(table.labels, repeats), np.tile(table.units, repeats)


def _spline(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the basis of a restricted cubic spline, (n, k): 1, x and len(knots) - 2 cubic terms.

    Harrell 2015, "Regression Modeling Strategies", eq. 2.25; linear beyond the outer knots.
    """
    columns = [np.ones(len(x)), x]
    if len(knots) > 2:
        last, before = knots[-1], knots[-2]
        tail = [np.clip(x - knot, 0, None) ** 3 for knot in knots]
        for place, knot in enumerate(knots[:-2]):
            ends = (tail[-2] * (last - knot) - tail[-1] * (before - knot)) / (last - before)
            columns.append((tail[place] - ends) / (last - knots[0]) ** 2)
    return np.column_stack(columns)


def _fit(
    design: np.ndarray, labels: np.ndarray, clusters: np.ndarray, offset: np.ndarray | float = 0.0
) -> _Fit | None:
    """Fit a logistic regression by Newton's method; None where classes are separable or columns collinear."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        probabilities = expit(design @ coefficients + offset)
        information = (design * (probabilities * (1 - probabilities))[:, None]).T @ design
        residuals = design * (labels - probabilities)[:, None]
        try:
            step = np.linalg.solve(information, residuals.sum(0))
        except np.linalg.LinAlgError:
            return None
        coefficients = coefficients + step
        if not np.isfinite(coefficients).all() or np.abs(coefficients).max() > _STEEPEST:
            return None
        if np.abs(step).max() < _TOLERANCE:
            return _Fit(coefficients, _sandwich(information, residuals, clusters))
    return None


def _sandwich(information: np.ndarray, residuals: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the covariance of coefficients whose clusters are independent, (k, k)."""
    count = int(clusters.max()) + 1
    sums = np.zeros((count, residuals.shape[1]))
    np.add.at(sums, clusters, residuals)
    bread = np.linalg.inv(information)
    return bread @ (sums.T @ sums) @ bread * count / max(1, count - 1)


def _estimate(fit: _Fit | None, place: int, z: float) -> Estimate:
    if fit is None:
        return Estimate(None, None, None)
    value, error = float(fit.coefficients[place]), float(np.sqrt(fit.covariance[place, place]))
    if np.isnan(z):
        return Estimate(value, None, None)
    return Estimate(value, value - z * error, value + z * error)
