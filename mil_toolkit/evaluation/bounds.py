"""Closed forms of 95 % confidence intervals: proportions, weighted sums, ratios, AUC and positive means."""

from typing import NamedTuple

import numpy as np

from mil_toolkit.evaluation.roots import brent_root

LEVEL = 0.95  # of the intervals
_NARROWEST = 1e-12  # distance from 0 and 1 at which the AUC is searched


class Bounds(NamedTuple):
    """An interval, and the variance that the estimate has by its linear approximation."""

    low: float
    high: float
    variance: float


UNKNOWN = Bounds(np.nan, np.nan, np.nan)


def quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's distribution with `freedom` degrees of freedom.

    >>> round(quantile(10), 3)
    2.228
    """
    from scipy.special import stdtrit  # a report that is up to date does without scipy

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def exact_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion by Clopper and Pearson.

    >>> low, high = exact_interval(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.555, 0.997)
    """
    from scipy.stats import binomtest  # takes long to import, and few commands need it

    interval = binomtest(successes, count).proportion_ci(LEVEL, method="exact")
    return float(interval.low), float(interval.high)


def wilson(share: float, count: float, z: float) -> Bounds:
    """Return the interval of a proportion by Wilson 1927, for a number of patients that may be fractional.

    >>> low, high, _ = wilson(0.9, 10, 1.96)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    middle = share + z**2 / (2 * count)
    variance = share * (1 - share) / count
    half = z * float(np.sqrt(variance + (z / (2 * count)) ** 2))
    low, high = (middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)
    return Bounds(max(0.0, min(low, share)), min(1.0, max(high, share)), variance)


def weighted_sum(
    weights: tuple[float, float],
    values: tuple[float, float],
    bounds: tuple[Bounds, Bounds],
    correlation: float,
) -> Bounds:
    """Return the interval of a sum of two estimates with weights of at least 0, from their intervals.

    This is the method of variance estimates recovery (MOVER; Zou and Donner 2008), with the correlation of
    the two estimates as in Zou 2007.
    """
    total = weights[0] * values[0] + weights[1] * values[1]
    below = [w * (v - b.low) for w, v, b in zip(weights, values, bounds, strict=True)]
    above = [w * (b.high - v) for w, v, b in zip(weights, values, bounds, strict=True)]
    spread = [w * np.sqrt(b.variance) for w, b in zip(weights, bounds, strict=True)]
    return Bounds(
        total - _combined(below, correlation),
        total + _combined(above, correlation),
        _combined(spread, correlation) ** 2,
    )


def _combined(parts: list[float], correlation: float) -> float:
    one, other = parts
    return float(np.sqrt(max(0.0, one**2 + other**2 + 2 * correlation * one * other)))


def ratio(one: float, first: Bounds, other: float, second: Bounds) -> tuple[float, float]:
    """Return the interval of one / other for independent estimates (MOVER-R; Donner and Zou 2012, eq. 7).

    The upper bound is infinite where that of the denominator may be zero.
    """
    product = one * other
    low = _root(product, first.low * (2 * one - first.low), second.high * (2 * other - second.high), -1)
    high = _root(product, first.high * (2 * one - first.high), second.low * (2 * other - second.low), 1)
    return max(0.0, low), high


def _root(product: float, numerator: float, denominator: float, sign: int) -> float:
    if abs(denominator) < _NARROWEST:
        return np.inf if sign > 0 else 0.0
    inner = max(0.0, product**2 - numerator * denominator)
    return float((product + sign * np.sqrt(inner)) / denominator)


def auc_variance(auc: float, pairs: np.ndarray) -> float:
    """Return the variance of an AUC that the AUC itself implies, after Newcombe 2006 (part 2, method 5).

    pairs: (K, 2), the numbers of positives and of negatives in each of K folds whose pairs are counted

    The formula of Hanley and McNeil 1982 for exponential scores, with the mean of both class sizes in the
    place of each, so that it does not matter which class is called positive. It vanishes only at 0 and 1.
    """
    positives, negatives = pairs[:, 0], pairs[:, 1]
    more = (positives + negatives) / 2 - 1
    shared = auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2
    total = positives * negatives
    return float((total * (auc * (1 - auc) + more * shared)).sum() / total.sum() ** 2)


def auc_interval(auc: float, pairs: np.ndarray, inflation: float, z: float) -> tuple[float, float]:
    """Return the values whose distance from the AUC is z standard errors, by the variance at the value.

    inflation: factor of `auc_variance`

    Because the variance is that at the bound and not that at the estimate, the interval has a width also
    where the AUC is 1, and never leaves 0 to 1 (a score interval; Newcombe 2006).
    """

    def surplus(value: float) -> float:
        return float((value - auc) ** 2 - z**2 * inflation * auc_variance(value, pairs))

    least, most = _NARROWEST, 1 - _NARROWEST
    inside = min(max(auc, least), most)
    low = brent_root(surplus, least, inside, 1e-9) if surplus(least) > 0 else 0.0
    high = brent_root(surplus, inside, most, 1e-9) if surplus(most) > 0 else 1.0
    return float(min(low, auc)), float(max(high, auc))


def positive_interval(value: float, half: float) -> tuple[float, float]:
    """Return the interval of a positive value from its half width, symmetric on the logarithmic scale.

    Losses are skewed: a few patients have large ones, and samples without them underestimate both the mean
    and its error. Where the half width exceeds the value, the upper bound grows in proportion to it.

    >>> [round(bound, 3) for bound in positive_interval(1.0, 0.5)]
    [0.607, 1.649]
    """
    if half <= value:
        return float(value * np.exp(-half / value)), float(value * np.exp(half / value))
    low = value * np.exp(-half / value) if value > 0 else 0.0
    return float(low), float(value + (np.e - 1) * half)
