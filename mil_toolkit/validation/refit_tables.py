"""The tables of a validation's page about what was refitted."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np

from mil_toolkit.bundle.records import STEP_WORDS
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.evaluation.words import number
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.validation.by_outcome import Shown
from mil_toolkit.validation.crossfit import folds_of
from mil_toolkit.validation.records import Refitted, Validation
from mil_toolkit.validation.validate import Validated, names_of_units

_ON_BALANCED = (
    " The balanced log loss gives every class the same weight. A refit fits the shares of the classes here,"
    " so that this loss may get worse while the calibration improves: judge a refit by the Brier score."
)
_ON_CALIBRATION = (
    " The intercept of perfect calibration is 0, its slope 1. Refits of the calibration keep the order of the"
    " predictions, and with it the discrimination shown above."
)


def refit_name(refitted: Refitted, stated: float | None) -> str:
    """Return what was refitted, with a capital; stated: the prevalence of a shift."""
    words = ", then ".join(STEP_WORDS[step] for step in refitted.steps)
    if "prevalence" in refitted.steps and stated is not None:
        words = words.replace("a stated prevalence", f"a stated prevalence of {stated:g}")
    return words[0].upper() + words[1:]


def refit_tables(validated: Validated, shown: Shown) -> list[ScoreTable]:
    """Return the scores of each refit, their differences from the model as it stands, and what was fitted."""
    record = validated.record
    if not record.refits:
        return []
    folds = len(np.unique(folds_of(names_of_units(validated.sample))))
    return [
        _refit_scores(record, shown.metrics, folds),
        _refit_differences(record, shown.metrics),
        _rules(validated),
    ]


def _refit_scores(record: Validation, metrics: Sequence[str], folds: int) -> ScoreTable:
    calibrated = record.calibration is not None
    heads = ["", *(["Calibration intercept", "Calibration slope"] if calibrated else [])]
    caption = (
        "Each patient is predicted by what was refitted on the other folds, of"
        f" {count_of(folds, 'fold')} that keep groups together."
        " 95 % intervals over patients, which take the refits as given."
        f"{_ON_CALIBRATION if calibrated else ''}{_ON_BALANCED if 'balanced_log_loss' in metrics else ''}"
    )
    standing = Row("As it stands", _calibration_cells(record) + _cells(record.scores, metrics), own=True)
    rows = [
        Row(
            refit_name(refitted, record.stated),
            _calibration_cells(refitted) + _cells(refitted.scores, metrics),
        )
        for refitted in record.refits.values()
    ]
    return ScoreTable(
        "Scores after each refit", caption, [*heads, *map(metric_name, metrics)], [standing, *rows]
    )


def _calibration_cells(result: Validation | Refitted) -> list[Cell | None]:
    if result.calibration is None:
        return []
    return [cell(result.calibration.intercept), cell(result.calibration.slope)]


def _cells(scores: Scores, metrics: Sequence[str]) -> list[Cell | None]:
    return [cell(scores[name]) for name in metrics]


def _refit_differences(record: Validation, metrics: Sequence[str]) -> ScoreTable:
    rows = [
        Row(refit_name(refitted, record.stated), [cell(refitted.differences[name], "+") for name in metrics])
        for refitted in record.refits.values()
    ]
    caption = "The model after each refit minus the model as it stands, paired on the same patients."
    return ScoreTable(
        "Differences from the model as it stands", caption, ["", *map(metric_name, metrics)], rows
    )


def _rules(validated: Validated) -> ScoreTable:
    """Return the fitted numbers, on all patients: what a new bundle would hold."""
    rules = {"As it stands": validated.bundle.decision}
    record = validated.record
    rules |= {refit_name(refitted, record.stated): refitted.rule for refitted in record.refits.values()}
    names = [name for name, _ in _numbers(validated.bundle.decision)]
    rows = [Row(name, [Cell(text) for _, text in _numbers(rule)]) for name, rule in rules.items()]
    caption = "Fitted on all scored patients; the scores above are of the same refits by cross-fitting."
    return ScoreTable("What was fitted", caption, ["", *map(metric_name, names)], rows)


_SHOWN_FIELDS = ("slope", "intercept", "biases", "threshold", "margin")


def _numbers(rule: DecisionRule) -> Iterator[tuple[str, str]]:
    """Yield name and text of each number of a decision rule."""
    for field in fields(rule):  # type: ignore[arg-type]
        if field.name in _SHOWN_FIELDS:
            value = getattr(rule, field.name)
            several = isinstance(value, tuple)
            yield field.name, ", ".join(number(part, "+") for part in value) if several else number(value)
