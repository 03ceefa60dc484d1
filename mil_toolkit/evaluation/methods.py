"""The interval of each metric, by a method whose coverage benchmarks/coverage.py measures.

The intervals are those of the expected performance of the procedure on new patients. A score of
cross-validation also varies with the patients that the models were trained on, by a variance that shrinks
faster with their number than that of the patients who are predicted: TRAINING states how much faster. The
scores of a single model are not widened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from mil_toolkit.evaluation.bounds import (
    Bounds,
    auc_interval,
    auc_variance,
    positive_interval,
    quantile,
    ratio,
    weighted_sum,
    wilson,
)
from mil_toolkit.evaluation.influence import (
    SHARES,
    Share,
    concordance,
    design_effect,
    mean_loss,
    mean_size,
    spread,
)
from mil_toolkit.evaluation.measure import PRIOR_ERRORS, STEP, Measure
from mil_toolkit.evaluation.measure_intervals import Patients, score_with_interval
from mil_toolkit.evaluation.metrics import METRICS, Metric, Predicted, Score
from mil_toolkit.evaluation.table import Table

# The variance of a score from cross-validation on n patients is (1 + TRAINING / n) times that over patients
# who are predicted by given models; found by `benchmarks/coverage.py --unwidened`.
TRAINING = 30.0
TRAINING_OF = {
    "auc": 10.0,
    "auc_pooled": 60.0,
    "balanced_log_loss": 40.0,
    "log_loss": 60.0,
    "brier": 40.0,
    "referred": 0.0,
    "ppv": 10.0,
    "npv": 10.0,
}


@dataclass(frozen=True)
class Linear:
    """A score's interval and its linear approximation.

    influence: (n,) of the patients; strata: (n,), within each of which a mean is estimated
    """

    bounds: Bounds
    influence: np.ndarray
    strata: np.ndarray

    def excess(self, z: float) -> float:
        """Return by how much the variance that the interval's width implies exceeds the linear one."""
        implied = (self.bounds.high - self.bounds.low) / (2 * z)
        return max(0.0, implied**2 - self.bounds.variance)


Method: TypeAlias = Callable[["Sample", str, float], Linear]
"""A function of a sample, a metric's name and its value, which returns the interval."""


@dataclass(frozen=True)
class Sample:
    """A table, with properties that the intervals of all its scores share."""

    table: Table

    @cached_property
    def units(self) -> np.ndarray:
        """The number of each patient's group, (n,)."""
        return self.table.units

    @cached_property
    def alike(self) -> np.ndarray:
        """A single stratum, (n,)."""
        return np.zeros(len(self.table.labels), dtype=int)

    @cached_property
    def design(self) -> float:
        """The design effect that is assumed where the errors are too few to show it."""
        return design_effect(self.table)

    def widening(self, name: str) -> float:
        """Return the factor of a metric's variance that accounts for other training patients.

        Repeats average over splits, but not over patients: they take away up to half of the addition, and
        nothing of that of scores that depend on the calibration of each fold.
        """
        if self.table.one_model:
            return 1.0
        training = TRAINING_OF.get(name, TRAINING)
        if name not in CALIBRATED:
            training *= (1 + 1 / len(self.table.folds)) / 2
        patients = len(self.table.labels)  # of a subgroup, fewer than those that the models learned from
        return 1 + training * self.design * patients / self.table.cross_validated**2

    def measured(self, measure: Measure[Predicted]) -> Patients:
        """Return the patients as the intervals of measures need them."""
        strata = self.table.strata if measure.balanced else self.alike
        cross_validated = None if self.table.one_model else self.table.cross_validated
        return Patients(self.units, strata, cross_validated, self.design)

    @cached_property
    def z(self) -> float:
        """The quantile of Student's distribution with one degree of freedom less than there are groups."""
        return quantile(max(1, len(np.unique(self.units)) - 1))


def linear(sample: Sample, name: str, value: float) -> Linear | None:
    """Return interval and influences of the metric called `name`; None if it has no interval or is NaN.

    No metric has an interval where all patients are in one group: nothing shows how much groups differ.
    """
    metric = sample.table.scoring.metrics[name]
    if not metric.resampled or not np.isfinite(value) or sample.table.one_unit:
        return None
    if metric.measure is not None:
        return _measured(sample, metric.measure)
    return method_of(metric)(sample, name, value)


def _measured(sample: Sample, measure: Measure[Predicted]) -> Linear:
    patients = sample.measured(measure)
    scored = score_with_interval(measure, list(sample.table.repeats()), patients)
    return Linear(scored.bounds, scored.influence, patients.strata)


def method_of(metric: Metric) -> Method:
    """Return the method of a metric's interval."""
    return METHOD_OF.get(metric.of, _by_derivative)


def is_loss(metric: Metric) -> bool:
    """Return whether a metric is a mean of losses, which have no upper bound."""
    return method_of(metric) is _loss


def is_bounded(metric: Metric) -> bool:
    """Return whether a metric is known to lie between 0 and 1."""
    return metric.of in METHOD_OF and not is_loss(metric)


def _by_derivative(sample: Sample, name: str, value: float) -> Linear:
    """Return the symmetric interval of a metric that has no method of its own."""
    weights = 1 + STEP * np.eye(len(sample.units))
    influence = (sample.table.scores(sample.table.scoring.metrics[name], weights) - value) / STEP
    observed, freedom = spread(influence, sample.units, sample.table.strata)
    variance = observed * sample.widening(name)
    half = quantile(freedom) * float(np.sqrt(variance))
    return Linear(Bounds(value - half, value + half, variance), influence, sample.table.strata)


# Proportions.


def _of_share(sample: Sample, name: str, share: Share) -> Linear:
    influence = share.influences.mean(0)
    bounds = wilson(share.value, _count(sample, name, share, influence), sample.z)
    return Linear(bounds, influence, sample.alike)


def _count(sample: Sample, name: str, share: Share, influence: np.ndarray) -> float:
    """Return the number of independent patients that have the variance of a proportion.

    Repeats with other splits predict the same patients, so they do not add to the number of patients, which
    the assumed design effect divides. The variance of few errors is uncertain, and is averaged with that of
    the assumed design effect.
    """
    value, count = share.value, share.count
    errors = count * min(value, 1 - value)
    variance = spread(influence, sample.units, sample.alike).variance
    observed = variance * count**2 / (errors * max(value, 1 - value)) if errors else 1.0
    largest = mean_size(sample.units[share.counted.any(0)])
    assumed = min(sample.design, largest)
    effect = (errors * observed + PRIOR_ERRORS * assumed) / (errors + PRIOR_ERRORS)
    return count / max(assumed, min(effect, largest) * sample.widening(name))


def _share(sample: Sample, name: str, value: float) -> Linear:
    return _of_share(sample, name, SHARES[name](sample.table))


def _both_rates(sample: Sample) -> tuple[tuple[Share, Share], tuple[Linear, Linear], float]:
    """Return sensitivity and specificity, their intervals, and their correlation over groups."""
    names = "sensitivity", "specificity"
    shares = SHARES[names[0]](sample.table), SHARES[names[1]](sample.table)
    one, other = (_of_share(sample, name, share) for name, share in zip(names, shares, strict=True))
    sums = [np.bincount(sample.units, rate.influence) for rate in (one, other)]
    size = np.sqrt((sums[0] @ sums[0]) * (sums[1] @ sums[1]))
    correlation = float(sums[0] @ sums[1] / size) if size > 0 else 0.0
    return shares, (one, other), correlation


def _balanced_accuracy(sample: Sample, name: str, value: float) -> Linear:
    shares, rates, correlation = _both_rates(sample)
    values, bounds = (shares[0].value, shares[1].value), (rates[0].bounds, rates[1].bounds)
    influence = (rates[0].influence + rates[1].influence) / 2
    return Linear(weighted_sum((0.5, 0.5), values, bounds, correlation), influence, sample.table.labels)


# Shares at a stated prevalence.


def _referred(sample: Sample, name: str, value: float) -> Linear:
    if sample.table.prevalence is None:
        return _share(sample, name, value)
    weights = (sample.table.prevalence, 1 - sample.table.prevalence)
    shares, rates, correlation = _both_rates(sample)
    values = shares[0].value, 1 - shares[1].value
    bounds = rates[0].bounds, _complement(rates[1].bounds)
    influence = weights[0] * rates[0].influence - weights[1] * rates[1].influence
    return Linear(weighted_sum(weights, values, bounds, -correlation), influence, sample.table.labels)


def _complement(bounds: Bounds) -> Bounds:
    return Bounds(1 - bounds.high, 1 - bounds.low, bounds.variance)


def _predictive_value(sample: Sample, name: str, value: float) -> Linear:
    """Return the interval of PPV or NPV at a stated prevalence, from that of a ratio of two rates.

    PPV = 1 / (1 + odds * (1 - specificity) / sensitivity), with the odds of the negative class; for the NPV
    the classes change places.
    """
    stated = sample.table.prevalence
    if stated is None:
        return _share(sample, name, value)
    shares, rates, _ = _both_rates(sample)
    if name == "npv":
        shares, rates, stated = shares[::-1], rates[::-1], 1 - stated
    odds, wrong_bounds = (1 - stated) / stated, _complement(rates[1].bounds)
    low, high = _from_ratio(odds, shares[0].value, rates[0].bounds, 1 - shares[1].value, wrong_bounds)
    influence = _of_predictive_value(stated, *shares)
    variance = spread(influence, sample.units, sample.table.labels).variance * sample.widening(name)
    return Linear(Bounds(min(low, value), max(high, value), variance), influence, sample.table.labels)


def _of_predictive_value(prevalence: float, right: Share, other: Share) -> np.ndarray:
    """Return the influence of each patient, (n,); prevalence: of the class of `right`."""
    true, false = prevalence * right.values[:, None], (1 - prevalence) * (1 - other.values[:, None])
    slope = prevalence * false * right.influences + (1 - prevalence) * true * other.influences
    return np.asarray((slope / (true + false) ** 2).mean(0))


def _from_ratio(
    odds: float, right: float, right_bounds: Bounds, wrong: float, wrong_bounds: Bounds
) -> tuple[float, float]:
    """Return the interval of 1 / (1 + odds * wrong / right); the larger rate is the denominator."""
    if right >= wrong:
        low, high = ratio(wrong, wrong_bounds, right, right_bounds)
        return 1 / (1 + odds * high), 1 / (1 + odds * low)
    low, high = ratio(right, right_bounds, wrong, wrong_bounds)
    return low / (low + odds), high / (high + odds) if np.isfinite(high) else 1.0


# AUC.


def _auc(sample: Sample, name: str, value: float) -> Linear:
    """Return the interval by the variance that the AUC implies, scaled to the one that is observed.

    The observed variance (DeLong et al. 1988, Obuchowski 1997) is unreliable where few pairs are discordant;
    there the scale is at least one.
    """
    found, widening = concordance(sample.table, pooled=name == "auc_pooled"), sample.widening(name)
    variance = spread(found.influence, sample.units, sample.table.labels).variance
    implied = auc_variance(value, found.pairs)
    errors = found.pairs.sum(0).min() * min(value, 1 - value) / sample.design
    least = sample.design * PRIOR_ERRORS / (PRIOR_ERRORS + errors)
    inflation = max(variance / implied if implied > 0 else 0.0, least) * widening
    low, high = auc_interval(value, found.pairs, inflation, sample.z)
    return Linear(Bounds(low, high, variance * widening), found.influence, sample.table.labels)


# Losses.


def _loss(sample: Sample, name: str, value: float) -> Linear:
    mean = mean_loss(sample.table, name)
    observed, freedom = spread(mean.influence, sample.units, mean.strata)
    variance = max(observed, mean.least) * sample.widening(name)
    low, high = positive_interval(value, quantile(freedom) * float(np.sqrt(variance)))
    return Linear(Bounds(low, high, variance), mean.influence, mean.strata)


LOSSES = ("balanced_log_loss", "log_loss", "brier")
CALIBRATED = (*LOSSES, "auc_pooled")
METHODS: dict[str, Method] = {
    "balanced_log_loss": _loss,
    "log_loss": _loss,
    "accuracy": _share,
    "sensitivity": _share,
    "specificity": _share,
    "balanced_accuracy": _balanced_accuracy,
    "auc": _auc,
    "auc_pooled": _auc,
    "brier": _loss,
    "referred": _referred,
    "ppv": _predictive_value,
    "npv": _predictive_value,
}
METHOD_OF: dict[Score, Method] = {METRICS[name].of: method for name, method in METHODS.items()}
"""The methods by the function of the metric, since metrics of several outcomes may share a name."""
