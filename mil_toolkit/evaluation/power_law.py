"""Scores as a function of the number of training patients: an inverse power law.

A score that should be high is modelled as a - b * n ** -c with b >= 0, where a is the score with unlimited
training patients (Figueroa et al. 2012, "Predicting sample size required for classification performance",
eq. 1); of a loss, the sign of b is reversed.
"""

from dataclasses import dataclass

import numpy as np

EXPONENTS = np.geomspace(0.25, 2.0, 25)  # of the power law; few points do not tell them apart more finely


@dataclass(frozen=True)
class PowerLaw:
    """Fitted curves, (F,) each: limit - size * patients ** -exponent, or + for a loss.

    limit: the score with unlimited training patients; sign: -1 for scores, +1 for losses
    """

    limit: np.ndarray
    size: np.ndarray
    exponent: np.ndarray
    sign: int

    def at(self, patients: np.ndarray) -> np.ndarray:
        """Return the scores (F, P) at numbers of training patients (P,)."""
        power = patients[None, :] ** -self.exponent[:, None]
        return self.limit[:, None] + self.sign * self.size[:, None] * power


def fit_power_law(
    patients: np.ndarray, scores: np.ndarray, best: float = 1.0, higher_is_better: bool = True
) -> PowerLaw:
    """Fit a power law to each row of scores by least squares.

    patients: (P,) numbers of training patients; scores: (F, P)
    best: the best possible score, which no limit exceeds

    For each exponent the other two parameters have a closed form; the exponent with the least error is taken.

    >>> law = fit_power_law(np.array([25.0, 50, 100]), np.array([[0.7, 0.75, 0.8]]))
    >>> bool(law.at(np.array([200.0]))[0, 0] > 0.8)
    True
    """
    sign = -1 if higher_is_better else 1
    fits = [_fit(patients**-exponent, scores, best, sign) for exponent in EXPONENTS]
    errors = np.array([error for _, _, error in fits])  # (E, F)
    chosen, rows = errors.argmin(0), np.arange(len(scores))
    limits, sizes = (np.array([fit[place] for fit in fits])[chosen, rows] for place in (0, 1))
    return PowerLaw(limits, sizes, EXPONENTS[chosen], sign)


def _fit(power: np.ndarray, scores: np.ndarray, best: float, sign: int) -> tuple[np.ndarray, ...]:
    """Return limits, sizes and squared errors (F,) for one exponent; power: (P,)."""
    centred = power - power.mean()
    slopes = np.maximum(sign * (scores @ centred) / (centred @ centred), 0)
    limits = scores.mean(1) - sign * slopes * power.mean()
    beyond = sign * (limits - best) < 0
    bounded = np.maximum(sign * ((scores - best) @ power) / (power @ power), 0)
    limits, slopes = np.where(beyond, best, limits), np.where(beyond, bounded, slopes)
    errors = ((limits[:, None] + sign * slopes[:, None] * power - scores) ** 2).sum(1)
    return limits, slopes, errors
