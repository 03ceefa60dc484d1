"""`--abstain`: sets of classes, or intervals, that contain the outcome with a stated probability."""

from collections.abc import Iterator

import numpy as np

from mil_toolkit.bundle.records import About
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.conformal import HeldOutScores, class_sets
from mil_toolkit.study.abstention import CLASS_SCORES, NUMBER, Calibration, has_logarithms

SET = "set"
SEPARATOR = " | "  # between the names of classes
_EITHER, _BINARY = "either", ("negative", "positive")


def calibration_of(about: About, alpha: float) -> Calibration:
    """Return by what a model abstains at a level; raises UsageError where it cannot."""
    kind = about.predicted.kind
    if not 0 < alpha < 1:
        raise UsageError(f"--abstain takes an error rate above 0 and below 1, such as 0.1, not {alpha:g}.")
    if kind not in (*CLASS_SCORES, NUMBER):
        raise UsageError(f"--abstain: there are no sets for the outcome {kind}. Leave --abstain out.")
    if about.calibration is None:
        reason = "of its fine-tuned backbone" if about.finetuned else "of held-out patients"
        advice = "" if about.finetuned else " Fit the model again with mil-fit."
        raise UsageError(f"--abstain: the bundle stores no predictions {reason}.{advice}")
    return about.calibration


def sets_of(about: About, values: np.ndarray, alpha: float) -> list[str]:
    """Return the set of each patient from the predicted values, (n,) or (n, C), as text.

    Of two classes "positive", "negative" or "either"; of several the names of the classes; of a number an
    interval in its unit. Raises UsageError as `calibration_of`.
    """
    calibration, outcome = calibration_of(about, alpha), about.predicted
    if outcome.kind == NUMBER:
        return _intervals(calibration.classes[0], values, alpha, has_logarithms(outcome))
    sets = class_sets(calibration.classes, CLASS_SCORES[outcome.kind](values), alpha)
    binary = len(_BINARY) == sets.shape[1] and outcome.kind == "binary"
    names = _BINARY if binary else tuple(map(printable, outcome.class_names))
    return [_EITHER if binary and row.all() else _joined(names, row) for row in sets]


def _joined(names: tuple[str, ...], row: np.ndarray) -> str:
    return SEPARATOR.join(name for name, inside in zip(names, row, strict=True) if inside)


def _intervals(known: HeldOutScores, values: np.ndarray, alpha: float, logarithms: bool) -> list[str]:
    margin = known.margin(alpha)
    with np.errstate(over="ignore"):
        low, high = (
            (values * np.exp(-margin), values * np.exp(margin))
            if logarithms
            else (values - margin, values + margin)
        )
    return [f"{first:.6g} to {last:.6g}" for first, last in zip(low, high, strict=True)]


def notes(about: About, alpha: float) -> Iterator[str]:
    """Yield what a reader of the sets has to know, a sentence each."""
    calibration = calibration_of(about, alpha)
    folds = "outer folds" if calibration.source == "outer" else "inner folds, which also chose the model"
    yield (
        f"Sets at an error rate of {alpha:g}, by the predictions on patients held out by the {folds}; the"
        " model itself was fitted on all patients."
    )
    names = about.predicted.class_names if about.predicted.kind != "binary" else _BINARY
    few = [known for known in calibration.classes if not known.suffices(alpha)]
    if few and about.predicted.kind == NUMBER:
        yield f"Every interval is infinite: {few[0].units} independent held-out patients are too few."
    for name, known in zip(names, calibration.classes, strict=False):
        if not known.suffices(alpha):
            yield (
                f"Every set contains {printable(name)}: its {known.units} independent held-out patients are"
                " too few to exclude it at this rate."
            )
