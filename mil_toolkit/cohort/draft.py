"""`draft_cohort` writes a commented cohort.toml that a reader checks line by line."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.declaration import COHORT_NAME
from mil_toolkit.cohort.guesses import (
    CHECK,
    LABEL_HEADER,
    Guess,
    examples,
    guess_classes,
    guess_column,
    guess_decimal,
    guess_id,
    guess_label,
    guess_positive,
    is_number,
    is_place,
    is_sex,
    spellings_of,
    toml_string,
    usual_spelling,
)
from mil_toolkit.cohort.images import holds, listing
from mil_toolkit.cohort.table import Table, normal_form, read_table
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.text import count_of, shown


@dataclass(frozen=True)
class Draft:
    """What was written: the doubts to check, and what stops `read_cohort` as long as it stays."""

    output: Path
    patients: int
    doubts: tuple[str, ...]
    problems: tuple[str, ...]


def draft_cohort(table_path: Path, images: Sequence[Path], output: Path) -> Draft:
    """Write the cohort.toml that a table and its image folders suggest.

    Raises UsageError where `output` exists, DataError where the table or a folder cannot be read or no
    column of the table names the folders.
    """
    if output.exists():
        raise UsageError(f"{output} already exists. Remove it, or name another file with --output.")
    table = read_table(table_path, str(table_path))
    folders = _patient_folders(images)
    if table.problems:
        raise DataError(table.problems)
    if not folders:
        roots = " or ".join(shown(str(root)) for root in images)
        raise DataError(f"there is no folder in {roots}. Each patient needs one with the name of its id.")
    lines = _draft(table, folders, _relative([table_path, *images], output), _written_on(table_path), output)
    _write(output, lines)
    doubts = tuple(line.removeprefix(CHECK) for line in lines if line.startswith(CHECK))
    return Draft(output, len(table.rows), doubts, tuple(_remaining_problems(output)))


def _write(output: Path, lines: Sequence[str]) -> None:
    try:
        publish(output, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from None


def _remaining_problems(output: Path) -> list[str]:
    try:
        read_cohort(output)
    except DataError as error:
        return error.problems
    return []


def _patient_folders(images: Sequence[Path]) -> set[str]:
    problems: list[str] = []
    entries = [entry for root in images for entry in listing(root, problems)]
    if problems:
        raise DataError(problems)
    return {
        normal_form(entry.name) for entry in entries if holds(entry.is_dir) and not entry.name.startswith(".")
    }


def _relative(paths: Sequence[Path], output: Path) -> list[str]:
    """The paths as seen from the output's folder, as TOML strings."""
    folder = output.parent.resolve()
    relative = [Path(os.path.relpath(_without_links_above(path), folder)).as_posix() for path in paths]
    broken = [
        f"{shown(path)} is not UTF-8 and cannot stand in a cohort.toml; rename it."
        for path in relative
        if not _is_unicode(path)
    ]
    if broken:
        raise DataError(broken)
    return [toml_string(path) for path in relative]


def _without_links_above(path: Path) -> Path:
    # `..` climbs out of a linked folder to where the link leads, so that the folders above must be real.
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _written_on(path: Path) -> date:
    return date.fromtimestamp(path.stat().st_mtime)


# The text: one function a section.


def _draft(
    table: Table, folders: Collection[str], paths: Sequence[str], written: date, output: Path
) -> list[str]:
    columns = _columns(table)
    patient_id = guess_id(table, columns, folders)
    label = guess_label({name: cells for name, cells in columns.items() if name != patient_id})
    rest = {name: cells for name, cells in columns.items() if name not in (patient_id, label)}
    decimal = guess_decimal(rest)
    guesses = {name: guess_column(name, cells, decimal, written, label) for name, cells in rest.items()}
    names = _metadata_names(guesses, rest)
    return [
        "# Drafted by mil-init from the table and the image folders: read it once, every `CHECK` above all.",
        "# Paths are relative to this file.",
        "",
        "[cohort]",
        f"name = {toml_string(_cohort_name(output))}",
        f"table = {paths[0]}",
        f"images = [{', '.join(paths[1:])}]  # each holds one folder per patient",
        *_id_lines(patient_id, columns[patient_id], folders),
        *_label_lines(label, columns),
        *_group_lines(rest),
        *_decimal_lines(decimal, rest),
        *_metadata_lines(guesses, names),
        *_left_out_lines(table, guesses),
        *_split_lines(label, guesses, names),
    ]


def _columns(table: Table) -> dict[str, list[str]]:
    """The cells of every column that has a name of its own."""
    cells = {name: table.column(name) for name in table.header if name}
    return {name: column for name, column in cells.items() if column is not None}


def _cohort_name(output: Path) -> str:
    name = output.resolve().parent.name
    return name if COHORT_NAME.fullmatch(name) else "cohort"


def _id_lines(name: str, cells: Sequence[str], folders: Collection[str]) -> Iterator[str]:
    ids = set(map(normal_form, cells))
    strangers, without = set(folders) - ids, ids - set(folders)
    if strangers:
        yield f"{CHECK}{count_of(len(strangers), 'folder')} without a row, {examples(strangers)}."
    if without:
        yield f"{CHECK}{count_of(len(without), 'row')} without a folder, {examples(without)}."
    yield f"id = {toml_string(name)}  # its values are the folders' names"


def _label_lines(label: str | None, columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if label is None:
        yield f"{CHECK}no column looks like a label, so that every patient is to be predicted."
        yield '# label = "LABEL"'
        return
    if not LABEL_HEADER.search(label):
        yield f"{CHECK}{shown(label)} is taken as the label, though its name does not say so."
    classes, unlabelled = guess_classes(columns[label])
    positive, negative = guess_positive(classes)
    yield f"label = {toml_string(label)}"
    for spellings in spellings_of(columns[label]).values():
        yield from _spelling_checks(label, spellings)
    yield f"{CHECK}{shown(label)} {shown(positive)} is taken as positive, {shown(negative)} as negative."
    yield f"positive = {_word(positive)}"
    yield f"negative = {_word(negative)}"
    if unlabelled is not None:
        yield f"{CHECK}{shown(label)} {unlabelled!r} is taken as not labelled: to predict, never to train on."
        yield f"unlabelled = {_word(unlabelled)}"


def _spelling_checks(label: str, spellings: Mapping[str, int]) -> Iterator[str]:
    usual = usual_spelling(spellings)
    for word, rows in spellings.items():
        if word != usual:
            told = f"{shown(repr(word))} (rows: {rows}) is read as another word than {shown(repr(usual))}"
            yield f"{CHECK}{shown(label)} {told} ({spellings[usual]}); write both the same in the table."


def _word(text: str) -> str:
    """A label as TOML writes it: a whole number bare, where that is the same, else a string."""
    return text if re.fullmatch(r"0|-?[1-9][0-9]*", text) else toml_string(text)


def _group_lines(rest: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name in filter(is_place, rest):
        yield f"{CHECK}does {shown(name)} group patients that must never straddle a split? Then take off the #."
        yield f"# group = {toml_string(name)}"


def _decimal_lines(decimal: str, rest: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if decimal == ",":
        commas = [cell for cells in rest.values() for cell in cells if is_number(cell, ",") and "," in cell]
        yield f"{CHECK}numbers have a decimal comma, {examples(commas)}; no thousands are set apart."
        yield 'decimal = ","'


def _metadata_lines(guesses: Mapping[str, Guess], names: Mapping[str, str]) -> Iterator[str]:
    for column, name in names.items():
        yield ""
        yield f"[metadata.{name if re.fullmatch('[A-Za-z0-9_-]+', name) else toml_string(name)}]"
        yield f"column = {toml_string(column)}"
        yield f'kind = "{guesses[column].kind}"'
        yield from guesses[column].lines


def _left_out_lines(table: Table, guesses: Mapping[str, Guess]) -> Iterator[str]:
    yield ""
    yield "# The model sees nothing of the columns that are not named above."
    if "" in table.header:
        yield "# Left out: a column without a name, an index perhaps."
    for name, count in Counter(filter(None, table.header)).items():
        if count > 1:
            yield f"{CHECK}{shown(name)} stands {count} times in the header and is left out; rename all but one."
    for guess in guesses.values():
        if guess.kind is None:
            yield from guess.lines


def _split_lines(label: str | None, guesses: Mapping[str, Guess], names: Mapping[str, str]) -> Iterator[str]:
    ages = [name for column, name in names.items() if guesses[column].kind == "birth-date"]
    if label is not None:
        yield ""
        yield "[splits]"
        yield f"stratify = [{', '.join(map(toml_string, ['label', *ages[:1]]))}]  # shared evenly among the inner folds"


def _metadata_names(guesses: Mapping[str, Guess], rest: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A name for each column that is used: birth dates first, then categories, then numbers."""
    names: dict[str, str] = {}
    for kind in ("birth-date", "category", "number"):
        for column in (column for column, guess in guesses.items() if guess.kind == kind):
            name = _metadata_name(column, kind, rest[column])
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
