"""Affine recalibration of predicted numbers, prediction intervals, and limits of agreement."""

import math
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.bounds import LEVEL, quantile

SMALLEST_SLOPE = 0.01  # recalibration must not reverse the order of the patients


@dataclass(frozen=True)
class AffineCalibration:
    """The mapping from the output of a head to the predicted number: slope * output + intercept."""

    slope: float
    intercept: float

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """Return the predicted numbers, in the shape of the outputs."""
        return self.slope * outputs + self.intercept


def fit_affine(outputs: np.ndarray, targets: np.ndarray) -> AffineCalibration:
    """Fit slope and intercept by least squares: outputs (n,), out of fold; targets (n,).

    The calibration of predictions by a regression of the outcome on them (Mincer and Zarnowitz 1969). The
    slope is at least SMALLEST_SLOPE of the ratio of the standard deviations, so that the order is kept, and 0
    if all outputs are equal.

    >>> fit_affine(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    AffineCalibration(slope=2.0, intercept=1.0)
    """
    centred = outputs - outputs.mean()
    variance = float(centred @ centred)
    if variance == 0:
        return AffineCalibration(0.0, float(targets.mean()))
    smallest = SMALLEST_SLOPE * float(targets.std() / outputs.std())
    slope = max(float(centred @ targets) / variance, smallest)
    return AffineCalibration(slope, float(targets.mean() - slope * outputs.mean()))


def left_out_residuals(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the residual (n,) of each patient by the recalibration that is fitted on all others.

    outputs, targets: (n,)

    The residual of the regression on all patients divided by 1 - leverage (PRESS; Allen 1974). These
    residuals have not seen their own patient in the recalibration either.
    """
    calibration, centred = fit_affine(outputs, targets), outputs - outputs.mean()
    variance = float(centred @ centred)
    leverage = 1 / len(outputs) + (centred**2 / variance if variance > 0 else 0.0)
    return np.asarray((targets - calibration.values(outputs)) / np.maximum(1 - leverage, SMALLEST_SLOPE))


def prediction_margin(residuals: np.ndarray, level: float = LEVEL) -> float:
    """Return the half width of the prediction interval of a new patient, from residuals (n,) out of fold.

    This is the ceil(level * (n + 1))-th smallest absolute residual, infinite if there are too few for the
    level (19 for 95 %). The interval value +- margin of a model that is trained on all patients is that of
    the jackknife (Barber et al. 2021, "Predictive inference with the jackknife+", section 1), with folds in
    place of single patients. For patients who are exchangeable with the training patients it covers at about
    `level` where the predictions hardly change if a fold is left out (their theorem 5); without such
    stability nothing is guaranteed (theorem 2).

    >>> prediction_margin(np.arange(-9.0, 10.0)), prediction_margin(np.ones(18))
    (9.0, inf)
    """
    place = math.ceil(level * (len(residuals) + 1) - 1e-9)
    return math.inf if place > len(residuals) else float(np.sort(np.abs(residuals))[place - 1])


@dataclass(frozen=True)
class Limits:
    """A limit of agreement or the bias, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Bias and limits of agreement of predicted and observed numbers; see `bland_altman`."""

    bias: Limits
    lower: Limits
    upper: Limits


def bland_altman(values: np.ndarray, targets: np.ndarray, units: np.ndarray | None = None) -> Agreement:
    """Return the mean difference of prediction and target, and the limits of 95 % of the differences.

    values, targets: (n,) of at least two patients; units: (n,), the number of each patient's group, from 0;
        None if every patient is a group

    Bland and Altman 1986, mean +- 1.96 standard deviations; the standard errors are those of Bland and Altman
    1999, section 2: s / sqrt(n) of the bias, and s sqrt(1 / n + 1.96^2 / (2 (n - 1))) of a limit. These hold
    for normal differences of independent patients. Skewed or long-tailed differences and groups need wider
    intervals, which follow from the influence of each patient (infinitesimal jackknife; Efron 1982). Both
    limits get the wider one: of skewed differences, that of the short tail would cover too little.
    """
    differences = values - targets
    count, bias, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    z, t = quantile(np.inf), quantile(count - 1)
    of_bias = t * deviation / math.sqrt(count)
    of_limit = t * deviation * math.sqrt(1 / count + z**2 / (2 * (count - 1)))
    centred, groups = differences - bias, np.arange(count) if units is None else units
    scaled = (centred**2 - deviation**2) / (2 * deviation) if deviation > 0 else centred

    of_bias = max(of_bias, _half_width(centred, groups))
    of_limit = max(of_limit, *(_half_width(centred + sign * z * scaled, groups) for sign in (-1, 1)))
    lower, upper = bias - z * deviation, bias + z * deviation
    return Agreement(_around(bias, of_bias), _around(lower, of_limit), _around(upper, of_limit))


def _half_width(influence: np.ndarray, units: np.ndarray) -> float:
    """Return half of the width of the interval of a mean over n patients by its influences (n,)."""
    from mil_toolkit.evaluation.influence import spread  # it imports pandas

    own = spread(influence / len(influence), units, np.zeros(len(influence), dtype=int))
    return quantile(own.freedom) * math.sqrt(own.variance)


def _around(value: float, half: float) -> Limits:
    return Limits(value, value - half, value + half)
