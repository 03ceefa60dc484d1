"""`draft_text` composes the lines of a drafted cohort.toml, with one function for each of its parts."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mil_toolkit.cohort.declaration import COHORT_NAME
from mil_toolkit.cohort.draft_lines import TableColumn, check, examples
from mil_toolkit.cohort.guess_kinds import Guess, guess_column, guess_decimal, left_out_to_check
from mil_toolkit.cohort.guess_outcome import Outcomes, guess_outcomes
from mil_toolkit.cohort.guess_roles import guess_id
from mil_toolkit.cohort.guess_survival import columns_to_leave_out
from mil_toolkit.cohort.header_words import is_named_group, is_sex
from mil_toolkit.cohort.outcome_lines import doubts_about_numbers, numbers_among, outcome_lines, taken_as
from mil_toolkit.cohort.table import TextTable
from mil_toolkit.cohort.toml import toml_string
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.numbers import is_number
from mil_toolkit.core.text import count_of, printable

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class DraftPaths:
    """Where the draft is written, and the paths in it as TOML strings."""

    output: Path
    table: str
    images: Sequence[str]
    sheet: str | None = None


def draft_text(table: TextTable, folders: Collection[str], paths: DraftPaths, written: date) -> list[str]:
    """Return the lines of the draft.

    folders: the names of the patients' folders
    written: when the table was last written
    """
    columns = _unique_columns(table)
    id_guess = guess_id(table.name, columns, folders)
    patient_id = id_guess.column
    candidates = {name: cells for name, cells in columns.items() if name != patient_id}
    outcomes = guess_outcomes(candidates)
    others = {name: cells for name, cells in candidates.items() if name not in outcomes.columns}
    numbers = [TableColumn(name, candidates[name], table.numbers) for name in numbers_among(outcomes)]
    read = {**others, **{column.name: column.cells for column in numbers}}
    decimal = guess_decimal(read)
    reasons, taken = columns_to_leave_out(candidates), taken_as(outcomes)
    guesses = {
        name: left_out_to_check(name, reasons[name])
        if name in reasons
        else guess_column(TableColumn(name, cells, table.numbers), decimal, written, taken)
        for name, cells in others.items()
    }
    names = _metadata_names(guesses, others)
    return [
        "# Drafted by mil-init from the table and the image folders. Review each line, above all each CHECK.",
        "# Paths are relative to this file.",
        "",
        "[cohort]",
        f"name = {toml_string(_cohort_name(paths.output))}",
        *map(check, table.notes),
        f"table = {paths.table}",
        *([] if paths.sheet is None else [f"sheet = {toml_string(paths.sheet)}"]),
        f"images = [{', '.join(paths.images)}]  # each contains one folder per patient",
        *map(check, id_guess.doubts),
        *_id_lines(patient_id, columns[patient_id], folders),
        *outcome_lines(outcomes, candidates),
        *doubts_about_numbers(outcomes, numbers, decimal),
        *_group_lines(others),
        *_decimal_lines(decimal, read),
        *_metadata_lines(guesses, names),
        *_left_out_lines(table, guesses),
        *_split_lines(outcomes),
    ]


def _unique_columns(table: TextTable) -> dict[str, list[str]]:
    """Return the cells of every column whose name is not empty and occurs once."""
    cells = {name: table.column(name) for name in table.header if name}
    return {name: column for name, column in cells.items() if column is not None}


def _cohort_name(output: Path) -> str:
    name = output.resolve().parent.name
    return name if COHORT_NAME.fullmatch(name) else "cohort"


def _id_lines(name: str, cells: Sequence[str], folders: Collection[str]) -> Iterator[str]:
    ids = set(map(normal_form, cells))
    without_row, without_folder = set(folders) - ids, ids - set(folders)
    if without_row:
        yield check(f"{count_of(len(without_row), 'folder')} without a row, {examples(without_row)}.")
    if without_folder:
        yield check(f"{count_of(len(without_folder), 'row')} without a folder, {examples(without_folder)}.")
    yield f"id = {toml_string(name)}  # its values are the names of the folders"


def _group_lines(others: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name in filter(is_named_group, others):
        yield check(
            f"does {printable(name)} group patients that no split may divide? If so, uncomment the next line."
        )
        yield f"# group = {toml_string(name)}"


def _decimal_lines(decimal: str, columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if decimal == ",":
        commas = [
            cell for cells in columns.values() for cell in cells if is_number(cell, ",") and "," in cell
        ]
        yield check(f"commas are taken as decimal commas, not as thousands separators, {examples(commas)}.")
        yield 'decimal = ","'


def _metadata_lines(guesses: Mapping[str, Guess], names: Mapping[str, str]) -> Iterator[str]:
    for column, name in names.items():
        yield ""
        yield f"[metadata.{name if BARE_KEY.fullmatch(name) else toml_string(name)}]"
        yield f"column = {toml_string(column)}"
        yield f'kind = "{guesses[column].kind}"'
        yield from guesses[column].lines


def _left_out_lines(table: TextTable, guesses: Mapping[str, Guess]) -> Iterator[str]:
    yield ""
    yield "# The model does not see the columns that are not named above."
    if "" in table.header:
        yield "# Left out: a column without a name, perhaps an index."
    for name, count in Counter(filter(None, table.header)).items():
        if count > 1:
            yield check(
                f"{printable(name)} appears {count} times in the header and is left out; rename all but one."
            )
    for guess in guesses.values():
        if guess.kind is None:
            yield from guess.lines


def _split_lines(outcomes: Outcomes) -> Iterator[str]:
    if outcomes.taken is not None:
        yield ""
        yield "[splits]"
        yield 'stratify = ["label"]  # balanced across the inner folds'
        yield '# folds = "folds.csv"  # official outer folds, if there are any: columns patient and fold'


def _metadata_names(guesses: Mapping[str, Guess], others: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return a name for each column that is used: birth dates first, then categories, then numbers."""
    names: dict[str, str] = {}
    for kind in ("birth-date", "category", "number"):
        for column in (column for column, guess in guesses.items() if guess.kind == kind):
            name = _metadata_name(column, kind, others[column])
            while name in (*names.values(), "label"):
                name += "_"
            names[column] = name
    return names


def _metadata_name(column: str, kind: str, cells: Sequence[str]) -> str:
    if kind == "birth-date":
        return "age"
    if is_sex(cells):
        return "sex"
    return re.sub(r"\W+", "_", column).strip("_").lower() or "value"
