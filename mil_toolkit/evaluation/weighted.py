"""Weighted sums, means and ratios of many resamples at once; NaN where they are not defined."""

import numpy as np


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, and NaN where `whole` is not above zero.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    defined = whole > 0
    return np.where(defined, part / np.where(defined, whole, 1), np.nan)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean over the last axis: values and weights (..., n) -> (...)."""
    return ratio((values * weights).sum(-1), weights.sum(-1))


def row_sums(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of each row: matrix (..., m, k) and weights (..., k) -> (..., m).

    >>> row_sums(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0])).tolist()
    [21.0, 43.0]
    """
    if matrix.ndim == 2:  # one product for all weights
        return np.asarray(weights @ matrix.T)
    return np.asarray((matrix @ weights[..., None])[..., 0])
