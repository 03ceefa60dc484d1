"""Difference of two scores that were measured on different patients."""

import math

from mil_toolkit.evaluation.records import Estimate


def independent_difference(one: Estimate, other: Estimate) -> Estimate:
    """Return one minus other with its 95 % interval, for estimates from two independent samples.

    The interval follows from those of the two estimates by the method of variance estimates recovery (MOVER;
    Zou and Donner 2008; for two proportions, method 10 of Newcombe 1998), which keeps their asymmetry. The
    ends are None where an estimate has no interval.

    >>> independent_difference(Estimate(0.75, 0.5, 1.0), Estimate(0.5, 0.5, 0.5))
    Estimate(value=0.25, low=0.0, high=0.5)
    """
    if one.value is None or other.value is None:
        return Estimate(None, None, None)
    value = one.value - other.value
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Estimate(value, None, None)
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - below, value + above)
