"""The tables of `mil-predict`, each of which replaces only a former table of its kind."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from mil_toolkit.bundle.domain.columns import IN_DOMAIN, REASONS
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.cells import NUMBER
from mil_toolkit.core.outputs import Output, starts_with
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.scoring import BINARY, Scoring
from mil_toolkit.outcomes.sets import SET, SET_HIGH, SET_LOW
from mil_toolkit.study.tables import publish_table

SUBMISSION_HEADER = ("ID", "LABEL")
_ATTENTION = (
    b"patient_id,image,attention\n",
    b"patient_id,image,attention,attention:",  # of a class
    b'patient_id,image,attention,"attention:',  # of a class whose name needs quotes
)
_SUBMISSION_LIMIT = 64 * MEBIBYTE


def prediction_output(path: Path, scoring: Scoring = BINARY) -> Output:
    """Return the table of predictions to write, which is known by its header."""
    return Output(path, "a table of predictions", partial(_has_predictions, scoring=scoring))


def attention_output(path: Path) -> Output:
    """Return the table of attention to write, which is known by its header."""
    return Output(path, "a table of attention", _has_attention)


def submission_output(path: Path, cohort: Cohort, header: Sequence[str] = SUBMISSION_HEADER) -> Output:
    """Return the challenge file to write, which is known by its header, patients and predictions."""
    return Output(path, "a challenge file", partial(_is_submission, cohort=cohort, header=header))


def write_tables(
    output: Path | None, table: pd.DataFrame, attention_path: Path | None, attention: pd.DataFrame | None
) -> list[str]:
    """Write the tables whose paths are given, and return a line about each."""
    lines = []
    if output is not None:
        publish_table(output, table)
        lines.append(f"{output}: {count_of(len(table), 'patient')}.")
    if attention_path is not None and attention is not None:
        publish_table(attention_path, attention)
        lines.append(f"{attention_path}: attention on {count_of(len(attention), 'image')}.")
    return lines


def _has_attention(path: Path) -> bool:
    return any(starts_with(path, start) for start in _ATTENTION)


def _has_predictions(path: Path, scoring: Scoring) -> bool:
    names = ["patient_id", *scoring.prediction_names]
    known = (names, [*names, *scoring.targets])
    sets: tuple[list[str], ...] = ([], [SET], [SET_LOW, SET_HIGH])
    # Older versions wrote no further columns.
    added = [[], *([IN_DOMAIN, REASONS, *columns] for columns in sets)]
    return any(starts_with(path, _line([*first, *last])) for first in known for last in added)


def _line(cells: Sequence[str]) -> bytes:
    """Return a row of a table as `study.tables.publish_table` writes it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode(errors="surrogateescape")


def submission_words(cohort: Cohort) -> tuple[str, ...]:
    """Return the word of each class in a challenge file: the first of the table, else the class's name."""
    names = zip(cohort.class_names, cohort.outcome.class_words, strict=True)
    return tuple(words[0] if words else name for name, words in names)


def _is_submission(path: Path, cohort: Cohort, header: Sequence[str]) -> bool:
    text = read_input(path, _SUBMISSION_LIMIT).decode(errors="replace")
    try:
        first, *rows = csv.reader(io.StringIO(text, newline=""))
    except (ValueError, csv.Error):  # there is no row, or no table
        return False
    if first not in (list(header), list(SUBMISSION_HEADER)) or not rows:
        return False
    unlabelled, words = {*cohort.unlabelled().patient_ids}, submission_words(cohort)
    return all(len(row) == 2 and row[0] in unlabelled and _is_predicted(row[1], words) for row in rows)


def _is_predicted(text: str, words: Sequence[str]) -> bool:
    """Return whether a text is what a challenge file holds: the word of a class, or without any a number."""
    return text in words if words else NUMBER.fullmatch(text) is not None
