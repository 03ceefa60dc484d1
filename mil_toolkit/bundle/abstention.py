"""`--abstain`: sets of classes, or intervals, that contain the outcome with a stated probability."""

from collections.abc import Iterator

import numpy as np

from mil_toolkit.bundle.membership import ANONYMOUS
from mil_toolkit.bundle.records import About
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import count_of
from mil_toolkit.outcomes.sets import PredictionSets
from mil_toolkit.study.abstention import Calibration

_LARGEST_RATE = 0.99


def _abstention(about: About, alpha: float) -> tuple[PredictionSets, Calibration]:
    """Return by what a model abstains at a level; raises UsageError where it cannot."""
    sets = about.predicted.sets
    if not 0 < alpha <= _LARGEST_RATE:
        raise UsageError(
            f"--abstain takes an error rate above 0 and at most {_LARGEST_RATE:g}, such as 0.1, not"
            f" {alpha:.12g}."
        )
    if sets is None:
        kind = about.predicted.kind
        raise UsageError(f"--abstain: there are no sets for the outcome {kind}. Leave --abstain out.")
    if about.calibration is None:
        raise UsageError(f"--abstain: the bundle stores no scores of held-out patients{_absence(about)}")
    return sets, about.calibration


def _absence(about: About) -> str:
    """Return why a bundle has no calibration, and what to do."""
    if about.finetuned is not None:
        return ", since its backbone was fine-tuned. Leave --abstain out."
    if about.recalibrations:
        return ", since it was recalibrated. Use the bundle before its recalibration, or leave --abstain out."
    if about.fitted_on == ANONYMOUS:
        return ", since it is anonymous. Fit the model again with mil-fit, without --anonymous."
    return ", since an older version wrote it. Fit the model again with mil-fit."


def set_columns(about: About, values: np.ndarray, alpha: float) -> dict[str, list[str] | np.ndarray]:
    """Return the columns of a table of predictions that hold the set of each patient.

    values: predicted probabilities or numbers, (n,) or (n, C)

    Of two classes a set is "positive", "negative" or "either", of several it has the names of the classes; of
    a number, there are the ends of an interval in its unit. Raises UsageError where the model cannot abstain.
    """
    sets, calibration = _abstention(about, alpha)
    return sets.columns(calibration.classes, values, alpha)


def set_members(about: About, values: np.ndarray, alpha: float) -> np.ndarray | None:
    """Return which classes the set of each patient contains, (n, C) bool; None if sets are intervals.

    values, errors: see `set_columns`
    """
    sets, calibration = _abstention(about, alpha)
    return sets.members(calibration.classes, values, alpha)


def notes(about: About, alpha: float) -> Iterator[str]:
    """Yield what a reader of the sets has to know, a sentence each."""
    sets, calibration = _abstention(about, alpha)
    folds = "outer folds" if calibration.source == "outer" else "inner folds, which also chose the model"
    yield (
        f"Sets at an error rate of {alpha:g}, by the predictions on patients held out by the {folds}; the"
        " model itself was fitted on all patients."
    )
    yield from sets.shortages(calibration.classes, alpha)


def training_note(patients: int) -> str | None:
    """Return that the sets of recognised training patients, so many, are not valid; None without any."""
    if not patients:
        return None
    return (
        f"The sets of {count_of(patients, 'training patient')} are not valid, since the model was fitted on"
        " them."
    )
