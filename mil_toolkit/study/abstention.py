"""Abstention: how well outcomes fit the predictions on held-out patients, and how often sets contain them.

See `evaluation.conformal` for the method. The models of the outer folds predict their held-out patients, as
in CV+ (Barber et al. 2021, "Predictive inference with the jackknife+", section 3).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mil_toolkit.evaluation.bounds import quantile, wilson
from mil_toolkit.evaluation.conformal import HeldOutScores, class_sets, coverage_bound
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.evaluation.table import Table
from mil_toolkit.outcomes.number import LOG, Number
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tables import read_predictions


def _of_two(probabilities: np.ndarray) -> np.ndarray:
    return np.stack([probabilities, 1 - probabilities], -1)


CLASS_SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "binary": _of_two,
    "classes": lambda probabilities: 1 - probabilities,
    "ordered": lambda probabilities: 1 - probabilities,
}
"""By kind of outcome, the nonconformity of each class, (..., C): one minus its predicted probability."""
NUMBER = "number"  # whose nonconformity is the distance of target and prediction


@dataclass(frozen=True)
class Calibration:
    """The nonconformity of held-out patients, by which a model abstains.

    source: whether they were held out by the outer folds, or by the inner ones, whose predictions also chose
        the configuration
    classes: of each class, or a single one of all patients for a number
    """

    source: Literal["outer", "inner"]
    classes: list[HeldOutScores]


def calibrate(study: Study, outer: bool) -> Calibration | None:
    """Return the calibration of a study's predictions; None for an outcome without sets.

    outer: whether the study has outer folds; else the predictions of the inner folds are taken
    """
    if study.outcome.kind not in (*CLASS_SCORES, NUMBER):
        return None
    folder = study.final
    table = study.table(read_predictions(folder.predictions if outer else folder.out_of_fold))
    everyone = np.ones(table.folds.shape, dtype=bool)
    return Calibration("outer" if outer else "inner", _held_out_scores(study, table, everyone))


def distances(targets: np.ndarray, predicted: np.ndarray, logarithms: bool) -> np.ndarray:
    """Return how far predicted numbers are from the targets, as factors on the scale of logarithms."""
    difference = np.log(targets) - np.log(predicted) if logarithms else targets - predicted
    return np.asarray(np.abs(difference))


def has_logarithms(outcome: object) -> bool:
    """Return whether an outcome is a number whose logarithm is learned."""
    return isinstance(outcome, Number) and outcome.transform == LOG


def _held_out_scores(study: Study, table: Table, chosen: np.ndarray) -> list[HeldOutScores]:
    """Return the scores of each class among the chosen predictions, (R, n) bool."""
    repeat, patient = chosen.nonzero()
    values, labels, units = table.probabilities[repeat, patient], table.labels[patient], table.units[patient]
    kind = study.outcome.kind
    if kind == NUMBER:
        return [HeldOutScores.of(distances(labels, values, has_logarithms(study.outcome)), units)]
    scores = CLASS_SCORES[kind](values)  # (m, C)
    return [
        HeldOutScores.of(scores[labels == number, number], units[labels == number])
        for number in range(scores.shape[-1])
    ]


@dataclass(frozen=True)
class Coverage:
    """How often the sets of held-out patients contain their outcome.

    alpha: allowed share of errors; covered: share of patients whose set contains the outcome
    classes: the same within each class; none for a number
    undecided: share of patients whose set has several classes; None for a number
    bound: of the coverage by the models of the folds, in theory, see `coverage_bound`; within the smallest
        class, if there are classes
    """

    alpha: float
    covered: Estimate
    classes: list[Estimate]
    undecided: float | None
    bound: float


def coverage(study: Study, table: Table, alpha: float) -> Coverage:
    """Return the coverage of the sets, where each outer fold is left out of the calibration in turn.

    table: the outer predictions of the study

    The intervals are Wilson's, with the number of units (groups, or patients) as the number of observations.
    """
    covered, several = np.zeros(table.folds.shape), np.zeros(table.folds.shape)
    for repeat, folds in enumerate(table.folds):
        for fold in np.unique(folds):
            others = np.zeros(table.folds.shape, dtype=bool)
            others[repeat] = folds != fold
            test = np.flatnonzero(folds == fold)
            calibration = _held_out_scores(study, table, others)
            inside, many = _covered(study, calibration, table, repeat, test, alpha)
            covered[repeat, test], several[repeat, test] = inside, many
    shares, labels, units = covered.mean(0), table.labels, table.units
    numeric = study.outcome.kind == NUMBER
    masks = [] if numeric else [labels == number for number in table.scoring.decisions]
    present = [mask for mask in masks if mask.any()]
    fewest = min(len(np.unique(units[mask])) for mask in (present or [np.ones(len(units), dtype=bool)]))
    return Coverage(
        alpha,
        _share(shares, units),
        [_share(shares[mask], units[mask]) for mask in present],
        None if numeric else float(several.mean()),
        coverage_bound(alpha, fewest, len(np.unique(table.folds[0]))),
    )


def _covered(
    study: Study, calibration: list[HeldOutScores], table: Table, repeat: int, test: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return whose set contains the outcome, and whose has several classes, of the patients at `test`."""
    values, labels = table.probabilities[repeat, test], table.labels[test]
    if study.outcome.kind == NUMBER:
        scores = distances(labels, values, has_logarithms(study.outcome))
        return scores <= calibration[0].margin(alpha), np.zeros(len(test), dtype=bool)
    sets = class_sets(calibration, CLASS_SCORES[study.outcome.kind](values), alpha)
    return sets[np.arange(len(test)), labels.astype(int)], sets.sum(-1) > 1


def _share(shares: np.ndarray, units: np.ndarray) -> Estimate:
    share = float(shares.mean())
    low, high, _ = wilson(share, len(np.unique(units)), quantile(np.inf))
    return Estimate(share, low, high)
