"""Conformal prediction from held-out predictions: p-values, sets of classes, and margins of numbers.

Each patient of a cross-validation has a nonconformity score: how badly the true outcome fits the prediction
of the model that did not train on the patient. A new patient's score for a possible outcome is compared with
these (cross-conformal prediction; Vovk 2015, "Cross-conformal predictors", Annals of Mathematics and
Artificial Intelligence 74). Scores are compared within a class (Mondrian), so that coverage refers to each
class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from msgspec import Meta

_ROUNDING = 1e-9  # of sums of weights
Weight = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True)
class HeldOutScores:
    """The nonconformity scores of the held-out patients of one class, or of all patients.

    scores: (n,) in ascending order; weights: (n,), which add up to one for each unit
    units: the number of independent units: patients, or groups of patients where groups are declared

    Patients of one group depend on each other, and so do several predictions of one patient. Each unit
    therefore counts once, its predictions with equal weights (Lee, Barber and Willett 2023,
    "Distribution-free inference with hierarchical data", section 3).
    """

    scores: list[float]
    weights: list[Weight]
    units: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.weights) or self.scores != sorted(self.scores):
            raise ValueError("scores must ascend, with a weight for each")
        if not np.isfinite(self.scores).all():
            raise ValueError("scores must be finite")
        if abs(sum(self.weights) - self.units) > _ROUNDING * max(1, len(self.weights)):
            raise ValueError(f"the weights add up to {sum(self.weights):g} units, not {self.units}")

    @classmethod
    def of(cls, scores: np.ndarray, units: np.ndarray) -> "HeldOutScores":
        """Return the scores (n,) of predictions that belong to these units (n,).

        >>> HeldOutScores.of(np.array([0.3, 0.1, 0.2]), np.array(["a", "b", "a"]))
        HeldOutScores(scores=[0.1, 0.2, 0.3], weights=[1.0, 0.5, 0.5], units=2)
        """
        names, unit = np.unique(units, return_inverse=True)
        weights, order = (
            1 / np.bincount(unit)[unit] if len(unit) else scores,
            np.argsort(scores, kind="stable"),
        )
        return cls(scores[order].tolist(), weights[order].tolist(), len(names))

    @cached_property
    def _weight_from(self) -> np.ndarray:
        """The total weight of the i-th score and all larger ones, (n + 1,)."""
        return np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return the p-value of each new patient's score, in the shape of the scores.

        It is (1 + the weight of the held-out scores at least as large) / (1 + units): Vovk 2015, eq. 3, with
        units in the place of patients. Without any held-out patient it is 1.

        >>> HeldOutScores([0.1, 0.2, 0.3], [1.0, 1.0, 1.0], 3).p_values(np.array([0.0, 0.2, 0.5]))
        array([1.  , 0.75, 0.25])
        """
        weight = self._weight_from[np.searchsorted(self.scores, scores, side="left")]
        return np.asarray((1 + weight) / (1 + self.units))

    def margin(self, alpha: float) -> float:
        """Return the largest score whose p-value exceeds alpha; infinite if the units are too few for alpha.

        alpha: below 1 by more than rounding, so that there is such a score

        >>> HeldOutScores.of(np.arange(1.0, 10.0), np.arange(9)).margin(0.2)
        8.0
        """
        if not self.suffices(alpha):
            return np.inf
        kept = (1 + self._weight_from[:-1]) / (1 + self.units) > alpha + _ROUNDING
        return self.scores[int(kept.nonzero()[0][-1])]

    def suffices(self, alpha: float) -> bool:
        """Return whether the units are enough that some score is unlikely at this level: 1 / alpha - 1."""
        return bool(1 / (1 + self.units) <= alpha + _ROUNDING)


def class_sets(calibration: Sequence[HeldOutScores], scores: np.ndarray, alpha: float) -> np.ndarray:
    """Return which classes the set of each new patient contains, (n, C) bool.

    calibration: of each of C classes; scores: (n, C) of each patient for each class

    A class is in the set if its p-value exceeds alpha. No set is empty: a patient who is unlike the held-out
    patients of every class is not decided, and the set contains all classes. A set never gets smaller by
    this, so that its coverage is at least that of the conformal set.
    """
    columns = zip(calibration, scores.T, strict=True)
    inside = np.stack([known.p_values(column) > alpha + _ROUNDING for known, column in columns], -1)
    return np.asarray(inside | ~inside.any(-1, keepdims=True))


def coverage_bound(alpha: float, units: int, folds: int) -> float:
    """Return the least probability with which sets by the models of the folds contain the outcome.

    units: n exchangeable units that calibrate, at least one; folds: K, of equal sizes

    CV+ (Barber et al. 2021, "Predictive inference with the jackknife+", Theorem 4):
    1 - 2 alpha - min(2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)), at least 0. Of fewer units than folds,
    each is alone in its fold.

    >>> round(coverage_bound(0.1, units=100, folds=5), 3), coverage_bound(0.1, units=20, folds=20)
    (0.724, 0.8)
    """
    folds = min(folds, units)
    lost = min(2 * (1 - 1 / folds) / (units / folds + 1), (1 - folds / units) / (folds + 1))
    return max(0.0, 1 - 2 * alpha - lost)
