"""`--abstain`: sets of classes, or intervals, that contain the outcome with a stated probability."""

from collections.abc import Iterator

import numpy as np

from mil_toolkit.bundle.membership import ANONYMOUS
from mil_toolkit.bundle.records import About
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.conformal import class_sets
from mil_toolkit.study.abstention import CLASS_SCORES, NUMBER, Calibration, has_logarithms

SET, SET_LOW, SET_HIGH = "set", "set_low", "set_high"
SEPARATOR = " | "  # between the names of classes
_LARGEST_RATE = 0.99
EITHER, BINARY = "either", ("negative", "positive")


def calibration_of(about: About, alpha: float) -> Calibration:
    """Return by what a model abstains at a level; raises UsageError where it cannot."""
    kind = about.predicted.kind
    if not 0 < alpha <= _LARGEST_RATE:
        raise UsageError(
            f"--abstain takes an error rate above 0 and at most {_LARGEST_RATE:g}, such as 0.1, not"
            f" {alpha:.12g}."
        )
    if kind not in (*CLASS_SCORES, NUMBER):
        raise UsageError(f"--abstain: there are no sets for the outcome {kind}. Leave --abstain out.")
    if about.calibration is None:
        raise UsageError(f"--abstain: the bundle stores no scores of held-out patients{_absence(about)}")
    return about.calibration


def _absence(about: About) -> str:
    """Return why a bundle has no calibration, and what to do."""
    if about.finetuned is not None:
        return ", since its backbone was fine-tuned. Leave --abstain out."
    if about.fitted_on == ANONYMOUS:
        return ", since it is anonymous. Fit the model again with mil-fit, without --anonymous."
    return ", since an older version wrote it. Fit the model again with mil-fit."


def set_columns(about: About, values: np.ndarray, alpha: float) -> dict[str, list[str] | np.ndarray]:
    """Return the columns of a table of predictions that hold the set of each patient.

    values: predicted probabilities or numbers, (n,) or (n, C)

    That is `set`, see `sets_of`, or for a number the ends of an interval in its unit, `set_low` and
    `set_high`, (n,); an end may be infinite. Raises UsageError as `calibration_of`.
    """
    calibration, outcome = calibration_of(about, alpha), about.predicted
    if outcome.kind != NUMBER:
        return {SET: sets_of(about, values, alpha)}
    low, high = _ends(calibration.classes[0].margin(alpha), values, has_logarithms(outcome))
    return {SET_LOW: low, SET_HIGH: high}


def sets_of(about: About, values: np.ndarray, alpha: float) -> list[str]:
    """Return the set of each patient from the predicted probabilities, (n,) or (n, C), as text.

    Of two classes "positive", "negative" or "either"; of several the names of the classes. Raises UsageError
    as `calibration_of`.
    """
    calibration, outcome = calibration_of(about, alpha), about.predicted
    sets = class_sets(calibration.classes, CLASS_SCORES[outcome.kind](values), alpha)
    binary = len(BINARY) == sets.shape[1] and outcome.kind == "binary"
    names = BINARY if binary else tuple(map(printable, outcome.class_names))
    return [EITHER if binary and row.all() else _joined(names, row) for row in sets]


def _joined(names: tuple[str, ...], row: np.ndarray) -> str:
    return SEPARATOR.join(name for name, inside in zip(names, row, strict=True) if inside)


def _ends(margin: float, values: np.ndarray, logarithms: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers (n,) less and plus a margin, on the scale on which it was measured."""
    if not logarithms:
        return values - margin, values + margin
    with np.errstate(over="ignore"):
        return values * np.exp(-margin), values * np.exp(margin)


def notes(about: About, alpha: float) -> Iterator[str]:
    """Yield what a reader of the sets has to know, a sentence each."""
    calibration = calibration_of(about, alpha)
    folds = "outer folds" if calibration.source == "outer" else "inner folds, which also chose the model"
    yield (
        f"Sets at an error rate of {alpha:g}, by the predictions on patients held out by the {folds}; the"
        " model itself was fitted on all patients."
    )
    names = about.predicted.class_names if about.predicted.kind != "binary" else BINARY
    few = [known for known in calibration.classes if not known.suffices(alpha)]
    if few and about.predicted.kind == NUMBER:
        yield f"Every interval is infinite: {few[0].units} independent held-out patients are too few."
    for name, known in zip(names, calibration.classes, strict=False):
        if not known.suffices(alpha):
            yield (
                f"Every set contains {printable(name)}: its {known.units} independent held-out patients are"
                " too few to exclude it at this rate."
            )


def training_note(patients: int) -> str | None:
    """Return that the sets of recognised training patients, so many, are not valid; None without any."""
    if not patients:
        return None
    return (
        f"The sets of {count_of(patients, 'training patient')} are not valid, since the model was fitted on"
        " them."
    )
