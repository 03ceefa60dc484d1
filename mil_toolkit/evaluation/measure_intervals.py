"""Intervals of the scores of any kind of outcome, whose coverage benchmarks/coverage_kinds.py measures.

As in methods.py, the variance of a score follows from the influence of each patient and is widened for the
training patients of cross-validation. It is turned into an interval on a scale that suits the range of the
score, so that the bounds never leave this range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.bounds import UNKNOWN, Bounds, positive_interval, quantile, wilson
from mil_toolkit.evaluation.influence import spread
from mil_toolkit.evaluation.measure import PRIOR_ERRORS, STEP, Measure, P, Scale

_BLOCK = 200  # patients whose influences are computed together


@dataclass(frozen=True)
class Patients:
    """The patients of a score.

    units: (n,), the number of each patient's group, from 0, or that of the patient without groups
    strata: (n,), within each of which a mean is estimated: the classes of a score with `balanced`, else zeros
    cross_validated: the number of patients on whom the models were trained and scored in turn; None if a
        single model made all predictions
    design: the design effect of groups that is assumed where the errors are too few to show it
    """

    units: np.ndarray
    strata: np.ndarray
    cross_validated: int | None
    design: float = 1.0

    def widening(self, training: float) -> float:
        """Return the factor of a variance that accounts for other training patients (see `Measure`)."""
        if self.cross_validated is None:
            return 1.0
        return 1 + training * self.design * len(self.units) / self.cross_validated**2


@dataclass(frozen=True)
class _Estimate:
    """A score, its widened variance, degrees of freedom, and the number of patients that it rests on."""

    value: float
    variance: float
    freedom: float
    count: float
    widening: float
    design: float


@dataclass(frozen=True)
class Scored:
    """A score with its interval, and the influence (n,) of each patient on it."""

    value: float
    bounds: Bounds
    influence: np.ndarray

    def excess(self, z: float) -> float:
        """Return by how much the variance that the interval's width implies exceeds the linear one."""
        implied = (self.bounds.high - self.bounds.low) / (2 * z)
        return max(0.0, implied**2 - self.bounds.variance)


def score_with_interval(measure: Measure[P], repeats: Sequence[P], patients: Patients) -> Scored:
    """Return the mean score of repeats, whose predictions have no leading axes, with its interval."""
    count = len(patients.units)
    value = float(np.mean([measure.score(predicted, count) for predicted in repeats]))
    influence = np.mean([_influence(measure, predicted, patients) for predicted in repeats], axis=0)
    least = 0.0
    if measure.costs is not None:
        costs = np.mean([measure.costs(predicted) for predicted in repeats], axis=0)
        least = least_variance(costs, patients.strata)
    return Scored(value, measure_interval(measure, value, influence, patients, least=least), influence)


def _influence(measure: Measure[P], predicted: P, patients: Patients) -> np.ndarray:
    if measure.influence is not None:
        own = measure.influence(predicted)
    else:
        own = influences(lambda weights: measure.of(predicted, weights), len(patients.units))
    if measure.through_training is not None and patients.cross_validated is not None:
        own = own + measure.through_training(predicted)
    return own


def influences(scores: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Return the derivative of a score by the weight of each patient, (n,), where all weights are 1.

    scores: returns the scores (draws,) of weights (draws, n); count: n
    """
    value = scores(np.ones((1, count)))[0]
    blocks = []
    for start in range(0, count, _BLOCK):
        rows = min(_BLOCK, count - start)
        blocks.append(scores(1 + STEP * np.eye(rows, count, start)) - value)
    return np.concatenate(blocks) / STEP


def effective_count(strata: np.ndarray, balanced: bool) -> float:
    """Return the number of patients that have the information of a score in which all strata weigh the same.

    strata: (n,). If each of C strata has the weight 1 / C, this is C^2 / sum of 1 / n_c (Kish 1965, section
    11.7), otherwise n.

    >>> effective_count(np.array([0, 0, 0, 1]), balanced=True)
    3.0
    """
    if not balanced:
        return float(len(strata))
    sizes = np.unique(strata, return_counts=True)[1]
    return float(len(sizes) ** 2 / (1 / sizes).sum())


def kurtotic_freedom(influence: np.ndarray) -> float:
    """Return the degrees of freedom of a variance that is estimated from influences (n,), at least 1.

    These are 2 n / (kurtosis - (n - 3) / (n - 1)) (O'Neill 2014, "Some useful moment results in sampling
    problems"): about n for normal influences, fewer where few patients with large losses make up most of the
    variance, as with squared errors.

    >>> round(kurtotic_freedom(np.array([9.0, -1, -1, -1, -1, -1, -1, -1, -1, -1])), 1)
    2.7
    """
    count = len(influence)
    distances = np.abs(influence - influence.mean())
    if count < 3 or not distances.any():
        return max(1.0, count - 1.0)
    squares = (distances / distances.max()) ** 2
    kurtosis = float((squares**2).mean() / squares.mean() ** 2)
    return max(1.0, min(count - 1.0, 2 * count / max(1e-9, kurtosis - (count - 3) / (count - 1))))


def least_variance(costs: np.ndarray, strata: np.ndarray) -> float:
    """Return half of the variance of a mean of losses that one patient who is predicted wrongly would cause.

    costs: (n,), the loss that each patient would have; strata: (n,), all of which weigh the same

    A model that has not erred yet should not seem certain; see `influence.mean_loss`.
    """
    numbers = np.unique(strata)
    parts = [np.mean(costs[own] ** 2) / own.sum() ** 2 for own in (strata == number for number in numbers)]
    return float(np.sum(parts) / len(numbers) ** 2 / 2)


def measure_interval(
    measure: Measure[P],
    value: float,
    influence: np.ndarray,
    patients: Patients,
    count: float | None = None,
    least: float = 0.0,
) -> Bounds:
    """Return the 95 % interval of a score from the influence (n,) of each patient; NaN if the score is NaN.

    count: the number of patients that a share rests on, such as those of a class for its sensitivity; by
        default `effective_count`
    least: a lower bound of the variance, by `least_variance`
    """
    if not np.isfinite(value):
        return UNKNOWN
    own, freedom = spread(influence, patients.units, patients.strata)
    observed = max(own, least)
    freedom = min(freedom, kurtotic_freedom(np.bincount(patients.units, influence)))
    widening = patients.widening(measure.training)
    counted = effective_count(patients.strata, measure.balanced) if count is None else count
    estimate = _Estimate(value, observed * widening, freedom, counted, widening, patients.design)
    low, high = SCALES[measure.scale](estimate)
    return Bounds(min(low, value), max(high, value), estimate.variance)


def _share(estimate: _Estimate) -> tuple[float, float]:
    """Return the interval of Wilson 1927 for the number of patients that has the observed variance.

    The variance of few errors is uncertain, and is averaged with that of independent patients, as for the
    proportions of methods.py.
    """
    value, count = estimate.value, estimate.count
    spare = value * (1 - value)
    errors = count * min(value, 1 - value)
    observed = estimate.variance / estimate.widening * count / spare if spare > 0 else 1.0
    effect = (errors * observed + PRIOR_ERRORS * estimate.design) / (errors + PRIOR_ERRORS)
    bounds = wilson(value, count / (effect * estimate.widening), quantile(max(1.0, count - 1)))
    return bounds.low, bounds.high


def _half(estimate: _Estimate) -> float:
    return quantile(estimate.freedom) * float(np.sqrt(estimate.variance))


def _positive(estimate: _Estimate) -> tuple[float, float]:
    return _above_zero(estimate.value, _half(estimate))


def _above_zero(value: float, half: float) -> tuple[float, float]:
    return positive_interval(value, half) if half > 0 else (value, value)


def _explained(estimate: _Estimate) -> tuple[float, float]:
    """Return the interval of 1 - x, where x is positive."""
    low, high = _above_zero(1 - estimate.value, _half(estimate))
    return 1 - high, 1 - low


def _correlation(estimate: _Estimate) -> tuple[float, float]:
    """Return the interval of a score between -1 and 1, as that of the share (1 + score) / 2."""
    half = _Estimate(
        (1 + estimate.value) / 2,
        estimate.variance / 4,
        estimate.freedom,
        estimate.count,
        estimate.widening,
        estimate.design,
    )
    low, high = _share(half)
    return 2 * low - 1, 2 * high - 1


def _count(estimate: _Estimate) -> tuple[float, float]:
    """Return the interval of a mean of small counts: the variance at a bound is in proportion to the bound.

    The score interval of a Poisson mean (Garwood 1936 has the exact one) whose variance is multiplied by the
    observed dispersion, which is averaged with 1 where the counts are few. It has a width also at 0.
    """
    value, count = estimate.value, estimate.count
    errors = count * value
    observed = estimate.variance / estimate.widening * count / value if value > 0 else 1.0
    effect = (errors * observed + PRIOR_ERRORS * estimate.design) / (errors + PRIOR_ERRORS)
    unit = quantile(max(1.0, count - 1)) ** 2 * effect * estimate.widening / count
    half = float(np.sqrt(unit * value + unit**2 / 4))
    return max(0.0, value + unit / 2 - half), value + unit / 2 + half


SCALES: dict[Scale, Callable[[_Estimate], tuple[float, float]]] = {
    "share": _share,
    "count": _count,
    "positive": _positive,
    "explained": _explained,
    "correlation": _correlation,
}
