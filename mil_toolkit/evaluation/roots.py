"""The root of a function of one number, without the import of scipy.optimize."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_RELATIVE = 4 * float(np.finfo(float).eps)  # the smallest relative tolerance, as in SciPy


class _Point(NamedTuple):
    x: float
    y: float


def brent_root(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Return a root of a continuous function whose values at `low` and `high` differ in sign.

    tolerance: largest distance from the root

    Brent's method (Brent 1973, chapter 4) with the steps of `scipy.optimize.brentq`, so that both return
    equal bits. Importing scipy.optimize takes longer than most commands need for everything else.

    >>> round(brent_root(lambda x: x**2 - 2, 0, 2, 1e-9), 6)
    1.414214
    """
    earlier, here = _Point(low, function(low)), _Point(high, function(high))
    if earlier.y == 0:
        return low
    opposite, last, step = earlier, 0.0, 0.0
    while True:
        if here.y != 0 and (earlier.y > 0) != (here.y > 0):
            opposite, last, step = earlier, here.x - earlier.x, here.x - earlier.x
        if abs(opposite.y) < abs(here.y):
            earlier, here, opposite = here, opposite, here
        least, half = (tolerance + _RELATIVE * abs(here.x)) / 2, (opposite.x - here.x) / 2
        if here.y == 0 or abs(half) < least:
            return here.x
        promising = abs(last) > least and abs(here.y) < abs(earlier.y)
        trial = _interpolated_step(earlier, here, opposite) if promising else math.inf
        is_short = 2 * abs(trial) < min(abs(last), 3 * abs(half) - least)
        last, step = (step, trial) if is_short else (half, half)
        x = here.x + (step if abs(step) > least else math.copysign(least, half))
        earlier, here = here, _Point(x, function(x))


def _interpolated_step(earlier: _Point, here: _Point, opposite: _Point) -> float:
    """Return the step to the root of the secant, or of the hyperbola through three different points."""
    if earlier.x == opposite.x:
        return -here.y * (here.x - earlier.x) / (here.y - earlier.y)
    first = (earlier.y - here.y) / (earlier.x - here.x)
    second = (opposite.y - here.y) / (opposite.x - here.x)
    numerator = -here.y * (opposite.y * second - earlier.y * first)
    return numerator / (second * first * (opposite.y - earlier.y))
