"""The columns of a cohort's table: patient ids, labels, groups and metadata values."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable
from mil_toolkit.cohort.toml import suggestion
from mil_toolkit.core.cells import is_missing, normal_form
from mil_toolkit.core.numbers import Unreadable
from mil_toolkit.core.text import SOME, each_or_most, printable, some
from mil_toolkit.outcomes.outcome import OutcomeRow


class _RepeatedId(NamedTuple):
    """A patient's first row, and a later one."""

    patient: str
    first: int
    row: int


def check_columns(declared: Declaration, table: TextTable, problems: Problems) -> None:
    """Report columns that the table does not have exactly once, and metadata that are the id or the label."""
    cohort, outcome = declared.cohort, declared.outcome.table_columns
    uses: list[tuple[str, str | None]] = [("[cohort] id", cohort.id)]
    uses += [(f"[cohort] {key}", column) for key, column in outcome.items()]
    uses.append(("[cohort] group", cohort.group))
    if isinstance(cohort.microns_per_pixel, str):
        uses.append(("[cohort] microns_per_pixel", cohort.microns_per_pixel))
    uses += [(f"{column.section} column", column.column) for column in declared.columns]
    for use, name in uses:
        count = 1 if name is None else table.header.count(normal_form(name))
        if count == 0:
            problems.add(f"{table.name} has no column {name!r} ({use}).{suggestion(str(name), table.header)}")
        elif count > 1:
            problems.add(f"{table.name} has {count} columns {name!r} ({use}); rename all but one.")
    for column in declared.columns:
        if column.column in (cohort.id, *outcome.values()):
            problems.add(
                f"{column.section} column {column.column!r} is the id or the"
                f" {' or the '.join(outcome) or 'label'} column, which must not be metadata: a model that"
                " sees it learns nothing else."
            )


def read_patient_ids(declared: Declaration, table: TextTable, problems: Problems) -> list[str]:
    """Return the different ids in the order of the table; missing and repeated ids are reported."""
    first: dict[str, int] = {}
    missing: list[str] = []
    repeated: list[_RepeatedId] = []
    cells = map(normal_form, table.column(declared.cohort.id) or [])
    for number, cell in zip(table.numbers, cells, strict=False):
        place = table.place(number)
        if is_missing(cell):
            missing.append(place)
        elif cell in first:
            repeated.append(_RepeatedId(cell, first[cell], number))
        else:
            first[cell] = number
    each = (f"{place}: no id in column {declared.cohort.id!r}." for place in missing)
    summary = f"rows have no id in column {declared.cohort.id!r}:"
    problems.extend(each_or_most(missing, len(table.rows), each, summary))
    problems.extend(_repeated_ids(table, repeated))
    return list(first)


def _repeated_ids(table: TextTable, repeated: Sequence[_RepeatedId]) -> list[str]:
    """Return a line for each row that repeats an id, or one line if they are so many that it is the rule."""
    if len(repeated) <= SOME or 4 * len(repeated) < len(table.rows):
        return [
            f"{table.place(row)}: patient {printable(patient)} already appears in row {first}."
            for patient, first, row in repeated
        ]
    rows = some([f"{printable(patient)} (rows {first} and {row})" for patient, first, row in repeated])
    advice = (
        "If its rows are images, make another table with one row per patient, and name this one as"
        " image_table, with the columns patient and path, instead of images."
    )
    count = f"{len(repeated)} of {len(table.rows)} rows of {table.name} repeat the id of an earlier row"
    return [f"{count}: {rows}. The table needs one row per patient. {advice}"]


def read_targets(declared: Declaration, table: TextTable, problems: Problems) -> np.ndarray:
    """Return the targets of all rows, see `Outcome.parse`; cells that cannot be read are reported.

    None are returned if a declared column is missing.
    """
    columns = [table.column(name) for name in declared.outcome.table_columns.values()]
    cells = [column for column in columns if column is not None]
    rows = map(OutcomeRow, _places(declared, table), zip(*cells, strict=True) if cells else repeat(()))
    complete = len(cells) == len(columns)
    parsed = declared.outcome.parse(list(rows) if complete else [], declared.cohort.decimal)
    problems.extend(parsed.problems)
    return parsed.targets


def read_groups(declared: Declaration, table: TextTable, problems: Problems) -> list[str] | None:
    """Return the group of each row, or None if no group column is declared; missing groups are reported."""
    column = declared.cohort.group
    if column is None:
        return None
    groups = []
    for place, cell in cells_of(declared, table, column):
        groups.append(normal_form(cell))
        if is_missing(cell):
            advice = "Each row needs a group; a patient who shares none needs one of their own."
            problems.add(f"no group in {column!r}. {advice}", place)
    return groups


def read_values(
    declared: Declaration, table: TextTable, column: MetadataColumn, problems: Problems
) -> np.ndarray:
    """Return the (P,) values of a metadata column.

    Cells that cannot be parsed are reported, and after them once what to do about them.
    """
    kind = KINDS[column.kind]
    values: list[float | str | None] = []
    unreadable: dict[str, list[str]] = defaultdict(list)
    advice: dict[str, None] = {}  # keys in the order in which they came
    for place, cell in cells_of(declared, table, column.column):
        try:
            values.append(
                None if kind.is_missing(cell) else kind.parse(cell, column, declared.cohort.decimal)
            )
        except Unreadable as error:
            values.append(None)
            unreadable[error.reason].append(f"{place}: {printable(column.column)} {cell!r}")
            advice[error.advice] = None
    for reason, cells in unreadable.items():
        each = (f"{cell} {reason}" for cell in cells)
        summary = f"cells cannot be read: each {reason} Affected:"
        problems.extend(each_or_most(cells, len(values), each, summary))
    problems.extend(f"{text} in {printable(declared.source)}." for text in advice if text)
    return np.array(values, dtype=np.float64 if kind.numeric else object)


def read_scales(declared: Declaration, table: TextTable, problems: Problems) -> list[float]:
    """Return the micrometres per pixel of each row's images, NaN where unknown; others are reported."""
    scale = declared.cohort.microns_per_pixel
    if not isinstance(scale, str):
        return [math.nan if scale is None else float(scale)] * len(table.rows)
    values = read_values(declared, table, MetadataColumn("microns_per_pixel", scale, "number"), problems)
    for (place, cell), value in zip(cells_of(declared, table, scale), values, strict=True):
        if value <= 0:
            text = f"{printable(scale)} {cell!r} is not a positive number of micrometres per pixel."
            problems.add(text, place)
    return list(map(float, values))


def cells_of(declared: Declaration, table: TextTable, column: str) -> Iterator[tuple[str, str]]:
    """Yield the place of each row and its cell; nothing if the column is missing, which is reported."""
    cells = table.column(column)
    if cells is not None:
        yield from zip(_places(declared, table), cells, strict=True)


def _places(declared: Declaration, table: TextTable) -> list[str]:
    """Return the row and patient of each row, as messages refer to them."""
    ids = table.column(declared.cohort.id) or [""] * len(table.rows)
    return [
        table.place(number) + (f" (patient {printable(patient)})" if patient else "")
        for number, patient in zip(table.numbers, ids, strict=True)
    ]
