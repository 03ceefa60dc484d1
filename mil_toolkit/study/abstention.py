"""Abstention: how well outcomes fit the predictions on held-out patients, and how often sets contain them.

See `evaluation.conformal` for the method. The models of the outer folds predict their held-out patients, as
in CV+ (Barber et al. 2021, "Predictive inference with the jackknife+", section 3).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mil_toolkit.evaluation.bounds import quantile, wilson
from mil_toolkit.evaluation.conformal import HeldOutScores, coverage_bound
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.evaluation.table import Table
from mil_toolkit.outcomes.sets import PredictionSets
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tables import read_predictions


@dataclass(frozen=True)
class Calibration:
    """The nonconformity of held-out patients, by which a model abstains.

    source: whether they were held out by the outer folds, or by the inner ones, whose predictions also chose
        the configuration
    classes: of each class, or a single one of all patients if there are no classes
    """

    source: Literal["outer", "inner"]
    classes: list[HeldOutScores]


def calibrate(study: Study, outer: bool) -> Calibration | None:
    """Return the calibration of a study's predictions; None for an outcome without sets.

    outer: whether the study has outer folds; else the predictions of the inner folds are taken
    """
    sets = study.outcome.sets
    if sets is None:
        return None
    folder = study.final
    table = study.table(read_predictions(folder.predictions if outer else folder.out_of_fold))
    everyone = np.ones(table.folds.shape, dtype=bool)
    return Calibration("outer" if outer else "inner", _held_out_scores(sets, table, everyone))


def _held_out_scores(sets: PredictionSets, table: Table, chosen: np.ndarray) -> list[HeldOutScores]:
    """Return the scores of each class among the chosen predictions, (R, n) bool."""
    repeat, patient = chosen.nonzero()
    return sets.held_out(table.probabilities[repeat, patient], table.labels[patient], table.units[patient])


@dataclass(frozen=True)
class Coverage:
    """How often the sets of held-out patients contain their outcome.

    alpha: allowed share of errors; covered: share of patients whose set contains the outcome
    classes: the same within each class; none if there are no classes
    undecided: share of patients whose set has several classes; None if there are no classes
    bound: of the coverage by the models of the folds, in theory, see `coverage_bound`; within the smallest
        class, if there are classes
    """

    alpha: float
    covered: Estimate
    classes: list[Estimate]
    undecided: float | None
    bound: float


def coverage(sets: PredictionSets, table: Table, alpha: float) -> Coverage:
    """Return the coverage of the sets, where each outer fold is left out of the calibration in turn.

    sets: of the study's outcome; table: its outer predictions

    The intervals are Wilson's, with the number of units (groups, or patients) as the number of observations.
    """
    covered, several = np.zeros(table.folds.shape), np.zeros(table.folds.shape)
    for repeat, folds in enumerate(table.folds):
        for fold in np.unique(folds):
            others = np.zeros(table.folds.shape, dtype=bool)
            others[repeat] = folds != fold
            test = np.flatnonzero(folds == fold)
            calibration = _held_out_scores(sets, table, others)
            values, targets = table.probabilities[repeat, test], table.labels[test]
            covered[repeat, test], several[repeat, test] = sets.covered(calibration, values, targets, alpha)
    shares, labels, units = covered.mean(0), table.labels, table.units
    masks = [labels == number for number in range(len(sets.names))]
    present = [mask for mask in masks if mask.any()]
    fewest = min(len(np.unique(units[mask])) for mask in (present or [np.ones(len(units), dtype=bool)]))
    return Coverage(
        alpha,
        _share(shares, units),
        [_share(shares[mask], units[mask]) for mask in present],
        float(several.mean()) if sets.names else None,
        coverage_bound(alpha, fewest, len(np.unique(table.folds[0]))),
    )


def _share(shares: np.ndarray, units: np.ndarray) -> Estimate:
    share = float(shares.mean())
    low, high, _ = wilson(share, len(np.unique(units)), quantile(np.inf))
    return Estimate(share, low, high)
