"""Affine recalibration of predicted numbers, prediction intervals, and limits of agreement."""

import math
from dataclasses import dataclass
from typing import NamedTuple

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


def out_of_fold_affine(outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the predictions (n,) of each patient by the recalibration fitted on the other folds.

    outputs, targets, folds: (n,)

    Residuals of these predictions have not seen their own patient in the recalibration either.
    """
    values = np.empty(len(outputs))
    for fold in np.unique(folds):
        inside = folds == fold
        values[inside] = fit_affine(outputs[~inside], targets[~inside]).values(outputs[inside])
    return values


def prediction_margin(residuals: np.ndarray, level: float = LEVEL) -> float:
    """Return the half width of the prediction interval of a new patient, from residuals (n,) out of fold.

    This is the ceil(level * (n + 1))-th smallest absolute residual, infinite if there are too few for the
    level (19 for 95 %). The interval value +- margin of a model that is trained on all patients is that of
    the jackknife (Barber et al. 2021, "Predictive inference with the jackknife+", section 1), with folds in
    place of single patients. For patients who are exchangeable with the training patients it covers at about
    `level` where the predictions hardly change if a fold is left out (their theorem 5); without such
    stability nothing is guaranteed (theorem 2). `cv_plus` has a guarantee without it.

    >>> prediction_margin(np.arange(-9.0, 10.0)), prediction_margin(np.ones(18))
    (9.0, inf)
    """
    place = _place(level, len(residuals))
    return math.inf if place > len(residuals) else float(np.sort(np.abs(residuals))[place - 1])


def _place(level: float, count: int) -> int:
    """Return the place from 1 of the order statistic that a share `level` of count + 1 does not exceed."""
    return math.ceil(level * (count + 1) - 1e-9)


class Ranges(NamedTuple):
    """The ends of the prediction intervals of some patients, (m,) each."""

    low: np.ndarray
    high: np.ndarray


def cv_plus(residuals: np.ndarray, values: np.ndarray, level: float = LEVEL) -> Ranges:
    """Return the CV+ prediction intervals of m new patients (Barber et al. 2021, section 3).

    residuals: (n,), absolute or signed, out of fold
    values: (n, m), of each new patient by the model that was trained without the fold of training patient i

    For patients who are exchangeable with the training patients, and whatever the model, the intervals cover
    with a probability of at least 2 * level - 1 - sqrt(2 / n) (theorem 4), and in practice about `level`.
    """
    count, errors = len(residuals), np.abs(residuals)[:, None]
    place = _place(level, count)
    if place > count:
        return Ranges(np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf))
    low = np.sort(values - errors, axis=0)[count - place]
    return Ranges(low, np.sort(values + errors, axis=0)[place - 1])


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


def bland_altman(values: np.ndarray, targets: np.ndarray) -> Agreement:
    """Return the mean difference of prediction and target, and the limits of 95 % of the differences.

    values, targets: (n,) of at least two patients

    Bland and Altman 1986, mean +- 1.96 standard deviations; the standard errors are those of Bland and Altman
    1999, section 2: s / sqrt(n) of the bias, and s sqrt(1 / n + 1.96^2 / (2 (n - 1))) of a limit.
    """
    differences = values - targets
    count, bias, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    z, t = quantile(np.inf), quantile(count - 1)
    of_bias = t * deviation / math.sqrt(count)
    of_limit = t * deviation * math.sqrt(1 / count + z**2 / (2 * (count - 1)))
    lower, upper = bias - z * deviation, bias + z * deviation
    return Agreement(_around(bias, of_bias), _around(lower, of_limit), _around(upper, of_limit))


def _around(value: float, half: float) -> Limits:
    return Limits(value, value - half, value + half)
