"""Warn about the values of a cohort that can be read but are implausible, and about chosen centuries."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mil_toolkit.cohort.columns import cells_of
from mil_toolkit.cohort.dates import has_two_digit_year, read_date
from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.cohort.plausibility import Oddity, odd_ages, odd_numbers
from mil_toolkit.cohort.table import TextTable
from mil_toolkit.core.numbers import number_text
from mil_toolkit.core.text import count_of, printable

logger = logging.getLogger(__name__)


OUTCOME_NUMBERS = ("target", "time")  # the keys of the columns of outcomes that hold numbers


def warn_of_values(
    declared: Declaration, table: TextTable, values: Mapping[str, np.ndarray], targets: np.ndarray
) -> None:
    """Log what the reader should know about the table, its metadata and its outcome.

    values: those of the metadata, by the columns' names; targets: those of the outcome, of all rows
    """
    for note in table.notes:
        logger.warning("%s", note)
    for column in declared.columns:
        places, cells = zip(*cells_of(declared, table, column.column), strict=True)
        for line in two_digit_years(column, cells):
            logger.warning("%s: %s: %s", table.name, printable(column.column), line)
        for oddity in _oddities(column, values[column.name]):
            _warn(table, column.column, oddity, cells, places)
    for key, name in declared.outcome.table_columns.items():
        if key in OUTCOME_NUMBERS:
            _warn_of_outcome(declared, table, name, declared.outcome.known(targets))


def _warn_of_outcome(declared: Declaration, table: TextTable, name: str, known: np.ndarray) -> None:
    """Log what is implausible in a column of the outcome; known: whether each row's outcome is, (P,)."""
    places, cells = zip(*cells_of(declared, table, name), strict=True)
    numbers = [float(number_text(cell, declared.cohort.decimal) or "nan") for cell in cells]
    for oddity in odd_numbers(name, np.where(known, numbers, np.nan)):
        _warn(table, name, oddity, cells, places)


def _warn(table: TextTable, name: str, oddity: Oddity, cells: Sequence[str], places: Sequence[str]) -> None:
    short = [place.removeprefix(f"{table.name}, ") for place in places]
    logger.warning("%s: %s: %s", table.name, printable(name), oddity.line(cells, short))


def _oddities(column: MetadataColumn, values: np.ndarray) -> Iterator[Oddity]:
    if column.kind == "number":
        yield from odd_numbers(column.column, values)
    elif column.kind == "birth-date" and column.reference is not None:
        yield from odd_ages(values, column.reference)


def two_digit_years(column: MetadataColumn, cells: Sequence[str]) -> Iterator[str]:
    """Yield in which centuries the dates with a year of two digits are read, if there are any."""
    formats = [format for format in column.formats if has_two_digit_year(format)]
    readings = [read_date(cell, formats, latest=column.reference) for cell in cells] if formats else []
    centuries = Counter(
        next(iter(days.values())).year // 100 for days in readings if set(days) & set(formats)
    )
    if centuries:
        counts = " and ".join(
            f"{count} in {century}00 to {century}99" for century, count in sorted(centuries.items())
        )
        dates = count_of(centuries.total(), "date has", "dates have")
        yield (
            f"{dates} a year with two digits (%y), read as {counts}: nobody is born after the reference"
            f" {column.reference}."
        )
