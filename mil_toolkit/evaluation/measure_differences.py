"""Interval of the difference of two methods' scores on the same patients, for any kind of outcome."""

import numpy as np

from mil_toolkit.evaluation.bounds import quantile
from mil_toolkit.evaluation.influence import spread
from mil_toolkit.evaluation.measure import Measure, P, Scale
from mil_toolkit.evaluation.measure_intervals import Patients, Scored, kurtotic_freedom

# Widest difference of two scores, by their scale; others are unbounded.
WIDEST: dict[Scale, float] = {"share": 1.0, "correlation": 2.0}


def difference_interval(
    measure: Measure[P], one: Scored, other: Scored, patients: Patients
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
