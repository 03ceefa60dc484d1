"""Interval of the difference of two methods' scores on the same patients, for any kind of outcome."""

from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.bounds import Bounds, quantile
from mil_toolkit.evaluation.influence import spread
from mil_toolkit.evaluation.measure import Measure, P, Scale
from mil_toolkit.evaluation.measure_intervals import Patients, kurtotic_freedom

# Widest difference of two scores, by their scale; others are unbounded.
WIDEST: dict[Scale, float] = {"share": 1.0, "correlation": 2.0}


@dataclass(frozen=True)
class ScoredMethod:
    """A method's score with its interval, and the influence (n,) of each patient on the score."""

    value: float
    bounds: Bounds
    influence: np.ndarray

    def excess(self, z: float) -> float:
        """Return by how much the variance that the interval's width implies exceeds the linear one."""
        implied = (self.bounds.high - self.bounds.low) / (2 * z)
        return max(0.0, implied**2 - self.bounds.variance)


def difference_interval(
    measure: Measure[P], one: ScoredMethod, other: ScoredMethod, patients: Patients
) -> tuple[float, float]:
    """Return the 95 % interval of one minus other, by the variance of the paired influences.

    As in comparisons.py: where the methods hardly differ, the variance is that of one patient on whom they
    do, and the variance that the intervals of bounded scores add near the ends of their range is added by
    halves, because the two methods mostly err on the same patients.
    """
    paired = one.influence - other.influence
    variance, freedom = spread(paired, patients.units, patients.strata)
    freedom = min(freedom, kurtotic_freedom(np.bincount(patients.units, paired)))
    variance *= patients.widening(measure.training)
    z, value = quantile(freedom), one.value - other.value
    widest = WIDEST.get(measure.scale)
    if widest is None:
        half = z * float(np.sqrt(variance))
        return value - half, value + half
    variance = max(variance, *(float(np.square(own.influence).max()) for own in (one, other)))
    half = z * float(np.sqrt(variance + (one.excess(z) + other.excess(z)) / 2))
    return max(-widest, value - half), min(widest, value + half)
