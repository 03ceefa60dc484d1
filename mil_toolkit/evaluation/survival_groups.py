"""Groups of patients by predicted risk, and the predictions of a model that knows no covariate."""

from dataclasses import replace

import numpy as np

from mil_toolkit.evaluation.survival_calibration import groups_of_risk
from mil_toolkit.evaluation.survival_curves import LogRank, survival_curve
from mil_toolkit.evaluation.survival_metrics import grid_of
from mil_toolkit.evaluation.table import Table

CROSS_VALIDATED = 2.0  # factor of the variance of a test of groups that cross-validation made


def ranks_within_folds(risks: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the rank of each risk within its fold, from 0 to 1, (n,), mean over the repeats.

    risks, folds: (R, n). Equal risks share their rank. Models of different folds have different scales, so
    that only risks of the same fold are compared.

    >>> ranks_within_folds(np.array([[0.1, 0.3, 0.5, 0.9]]), np.array([[1, 1, 2, 2]])).tolist()
    [0.25, 0.75, 0.25, 0.75]
    """
    from scipy.stats import rankdata  # takes long to import

    ranks = np.empty(risks.shape)
    for repeat, fold_of in enumerate(folds):
        for fold in np.unique(fold_of):
            inside = fold_of == fold
            ranks[repeat, inside] = (rankdata(risks[repeat, inside]) - 0.5) / inside.sum()
    return np.asarray(ranks.mean(0))


def predicted_thirds(table: Table) -> np.ndarray:
    """Return the third of the risk to which each patient belongs, (n,) from 0, the lowest.

    Thirds are of the ranks within folds, see `ranks_within_folds`. Patients of equal rank are in the same
    group, so that there may be fewer groups.
    """
    return groups_of_risk(ranks_within_folds(table.probabilities[..., 0], table.folds), 3)


def cross_validated_log_rank(test: LogRank) -> LogRank:
    """Return the log-rank test of groups that cross-validated predictions made.

    The test takes the groups as given. Models of cross-validation learn from each other's held-out patients:
    if the predictions say nothing, each pair of folds enters the statistic twice with about the same value,
    once in either direction, which doubles its variance at most. (Simon et al. 2011, "Using cross-validation
    to evaluate predictive accuracy of survival risk classifiers based on high-dimensional data", show that
    the p-value is too small.) The statistic is therefore divided by 2. Predictions of a single model need no
    such correction.
    """
    if test.statistic is None:
        return test
    from scipy.stats import chi2  # takes long to import

    statistic = test.statistic / CROSS_VALIDATED
    return LogRank(statistic, test.freedom, float(chi2.sf(statistic, test.freedom)))


def null_table(table: Table, horizon: float) -> Table:
    """Return the same patients with the predictions of the null model: the survival of the training patients.

    Each patient gets the Kaplan-Meier curve of the patients of the other folds; of a single fold, that of its
    own patients, which favours the null model. This is the reference of the Brier score (Graf et al. 1999,
    section 4).
    """
    times, events, grid = table.labels[:, 0], table.labels[:, 1] == 1, grid_of(horizon)
    values = np.empty((*table.folds.shape, 1 + len(grid)))
    for repeat, fold_of in enumerate(table.folds):
        single = len(np.unique(fold_of)) == 1
        for fold in np.unique(fold_of):
            inside = fold_of == fold
            training = inside if single else ~inside
            survival = survival_curve(times[training], events[training]).at(grid)
            values[repeat, inside] = np.concatenate([1 - survival[-1:], survival])
    return replace(table, probabilities=values)
