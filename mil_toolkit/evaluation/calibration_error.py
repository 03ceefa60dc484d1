"""The calibration error that perfectly calibrated predictions would have."""

import numpy as np

from mil_toolkit.evaluation.metrics import BINS, bins_of


def expected_if_calibrated(probabilities: np.ndarray) -> float:
    """Return the expected calibration error if every probability (R, n) were right, averaged over repeats.

    The gap of a bin is the distance of the number of positives from its expectation; the distribution of
    this number is the Poisson binomial one, computed exactly patient by patient.

    >>> round(expected_if_calibrated(np.array([[0.5, 0.5]])), 3)
    0.25
    """
    bins = bins_of(probabilities)
    gaps = [
        _expected_gap(row[inside == number])
        for row, inside in zip(probabilities, bins, strict=True)
        for number in range(BINS)
    ]
    return float(sum(gaps) / probabilities.size)


def _expected_gap(probabilities: np.ndarray) -> float:
    """Return the expected distance of the number of positives from the sum of their probabilities (n,)."""
    chances = np.ones(1)  # of 0, 1, ... positives
    for probability in probabilities:
        chances = np.convolve(chances, [1 - probability, probability])
    return float(chances @ np.abs(np.arange(len(chances)) - probabilities.sum()))
