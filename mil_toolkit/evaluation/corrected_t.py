"""A paired test over folds that allows for their overlapping training sets (Nadeau and Bengio 2003)."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from mil_toolkit.evaluation.intervals import LEVEL, Table
from mil_toolkit.evaluation.metrics import Metric


@dataclass(frozen=True)
class CorrectedT:
    """The mean difference of two methods over folds, its 95 % interval and p-value.

    folds: those that have patients of both classes
    """

    value: float
    low: float
    high: float
    p_value: float
    folds: int


def corrected_t(one: Table, other: Table, metric: Metric) -> CorrectedT | None:
    """Compare two methods by the corrected resampled t-test; None with fewer than two usable folds.

    The variance of the J differences is multiplied by 1 / J + n_test / n_train instead of 1 / J (eq. 8 of
    Nadeau and Bengio 2003, "Inference for the generalization error"), since training sets overlap.
    """
    repeats = range(len(one.folds))
    differences = np.concatenate(
        [one.fold_scores(repeat, metric) - other.fold_scores(repeat, metric) for repeat in repeats]
    )
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return None
    value, deviation = float(differences.mean()), float(differences.std(ddof=1))
    folds = len(np.unique(one.folds[0]))
    error = deviation * np.sqrt(1 / len(differences) + 1 / (folds - 1))  # n_test / n_train of F folds
    freedom = len(differences) - 1
    margin = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = float(2 * student.sf(abs(value) / error, freedom)) if error else float(value == 0)
    return CorrectedT(value, value - margin, value + margin, p_value, len(differences))
