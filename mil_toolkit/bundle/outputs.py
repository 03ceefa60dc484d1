"""The tables of `mil-predict`, each of which replaces only a former table of its kind."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.outputs import Output, starts_with
from mil_toolkit.core.reading import MEBIBYTE, read_input

SUBMISSION_HEADER = ("ID", "LABEL")
_PREDICTIONS = b"patient_id,probability,prediction,spread"
_RISKS = b"patient_id,risk,survival:"  # as predictions of survival begin
_ATTENTION = b"patient_id,image,attention\n"
_SUBMISSION_LIMIT = 64 * MEBIBYTE


def prediction_output(path: Path) -> Output:
    """Return the table of predictions to write, which is known by its header."""
    return Output(path, "a table of predictions", _has_predictions)


def attention_output(path: Path) -> Output:
    """Return the table of attention to write, which is known by its header."""
    return Output(path, "a table of attention", partial(starts_with, start=_ATTENTION))


def submission_output(path: Path, cohort: Cohort, header: Sequence[str] = SUBMISSION_HEADER) -> Output:
    """Return the challenge file to write, which is known by its header, patients and predictions."""
    return Output(path, "a challenge file", partial(_is_submission, cohort=cohort, header=header))


def _has_predictions(path: Path) -> bool:
    starts = (_PREDICTIONS + b"\n", _PREDICTIONS + b",label\n", _RISKS)
    return any(starts_with(path, start) for start in starts)


def _is_submission(path: Path, cohort: Cohort, header: Sequence[str]) -> bool:
    text = read_input(path, _SUBMISSION_LIMIT).decode(errors="replace")
    try:
        first, *rows = csv.reader(io.StringIO(text, newline=""))
    except (ValueError, csv.Error):  # there is no row, or no table
        return False
    if first not in (list(header), list(SUBMISSION_HEADER)) or not rows:
        return False
    unlabelled = {*cohort.unlabelled().patient_ids}
    return all(len(row) == 2 and row[0] in unlabelled and row[1] in cohort.class_names for row in rows)
