"""`Guess`: the value of a number that is expected of a patient with such images."""

from dataclasses import dataclass

import numpy as np

_FEWEST = 10  # patients with a known value that a regression is fitted on
_LEADING = 16  # principal components, which vary most, that are counted: others are mostly noise
_FARTHEST = 1.5  # root mean square of standardised columns beyond which a mean embedding tells no more
_PENALTIES = np.logspace(-2, 3, 16)  # of the mean squared error; the largest leaves the mean alone


@dataclass(frozen=True)
class Guess:
    """Linear regression of a number on the standardised mean embedding of a patient's images, (C,).

    weights: of the leading columns
    """

    weights: list[float]
    intercept: float

    def expect(self, away: np.ndarray) -> np.ndarray:
        """Return the expected values (B,) of patients with these `standardised` mean embeddings (B, C)."""
        leading = _limited(away[:, : len(self.weights)])
        return np.asarray(leading @ np.array(self.weights) + self.intercept)


def fit_guess(values: np.ndarray, away: np.ndarray) -> tuple[Guess, np.ndarray] | None:
    """Return a regression of values (n,) on mean embeddings (n, C), and the errors of held-out values, (n,).

    None for few values, and for values that do not vary.

    The regression is a ridge regression, whose penalty has the smallest mean squared error of values that
    are left out (Allen 1974, "The relationship between variable selection and data augmentation and a method
    for prediction", equation 2.8). Where images tell nothing of a number, its mean is expected.
    """
    if len(values) < _FEWEST or values.std() <= 1e-9 * np.abs(values).max():
        return None
    images = _limited(away[:, :_LEADING])
    left, lengths, right = np.linalg.svd(images - images.mean(0), full_matrices=False)
    kept = [lengths**2 / (lengths**2 + len(values) * penalty) for penalty in _PENALTIES]
    errors = [_left_out(values, left, shares) for shares in kept]
    best = int(np.argmin([np.square(error).mean() for error in errors]))
    usable = np.where(lengths > 0, lengths, 1)
    weights = (kept[best] / usable * (left.T @ (values - values.mean()))) @ right
    intercept = float(values.mean() - images.mean(0) @ weights)
    return Guess(weights.tolist(), intercept), errors[best]


def _left_out(values: np.ndarray, left: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the error of each value by the regression on all other values, (n,)."""
    centred = values - values.mean()
    leverages = 1 / len(values) + np.square(left) @ shares
    errors = centred - left @ (shares * (left.T @ centred))
    return np.asarray(errors / np.maximum(1 - leverages, 1e-9))


def _limited(away: np.ndarray) -> np.ndarray:
    """Return mean embeddings (B, C) of at most the farthest distance: a regression does not hold beyond."""
    distances = np.sqrt(np.square(away).mean(1, keepdims=True))
    return np.asarray(away * np.minimum(1, _FARTHEST / np.maximum(distances, 1e-12)))
