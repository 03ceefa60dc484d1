# Floor 0.7: the cohort: patients, labels, groups, metadata and image paths, read from cohort.toml.
"""`read_cohort` reads a cohort.toml with its table and folders, and names every problem in one error."""

import csv
import difflib
import io
import logging
import math
import os
import re
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mil_toolkit.errors import DataError
from mil_toolkit.files import digest_json
from mil_toolkit.wording import each_or_most

logger = logging.getLogger(__name__)

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
MISSING = frozenset({"", "na", "nan", "n/a", "?"})  # of a trimmed cell in lower case
SEPARATORS = (",", ";", "\t")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
OLDEST = 130  # years; a greater age is a misread date
DAYS_PER_YEAR = 365.25
COHORT_NAME = re.compile(r"\w[\w. -]*")  # it names a folder of the cache

COHORT_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "table": (str,),
    "images": (list,),
    "image_table": (str,),
    "id": (str,),
    "label": (str,),
    "positive": (str, int),
    "negative": (str, int),
    "unlabelled": (str, int),
    "group": (str,),
    "separator": (str,),
    "decimal": (str,),
}
METADATA_KEYS: dict[str, tuple[type, ...]] = {
    "column": (str,),
    "kind": (str,),
    "formats": (list,),
    "reference": (date,),
    "transform": (str,),
    "unit": (str,),
}
SPLIT_KEYS: dict[str, tuple[type, ...]] = {"stratify": (list,)}
SECTIONS: dict[str, tuple[type, ...]] = {"cohort": (dict,), "metadata": (dict,), "splits": (dict,)}
TYPE_WORDS = {
    str: "text in quotes",
    int: "a whole number",
    list: "a list of texts",
    date: "a date without quotes, like 2020-12-31",
    dict: "a section",
}


@dataclass(frozen=True)
class MetadataColumn:
    """One `[metadata.NAME]` section, as declared."""

    name: str
    column: str
    kind: str
    formats: tuple[str, ...] = ()
    reference: date | None = None
    transform: str | None = None
    unit: str | None = None


@dataclass(frozen=True, eq=False)
class Cohort:
    """P patients in the order of the table.

    patient_ids: P ids, trimmed, in Unicode normal form C
    labels: (P,) int8, 1 positive, 0 negative, -1 unlabelled
    groups: (P,) str, or None where no group is declared
    metadata: (P, M) by patient and metadata name; numbers in the declared unit and ages in years as
        float64 with NaN where missing, not transformed; categories in upper case with None where missing
    class_names: the table's words for class 0 and class 1
    images: the image files of each patient in the order of their names; empty when read without images
    image_names: beside `images`, each image's name within its patient: the path below the patient's
        folder (behind the root's name where several roots hold the patient), or as in the image table
    tables: the files that it was read from besides `source`
    """

    name: str
    source: Path
    patient_ids: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray | None
    columns: tuple[MetadataColumn, ...]
    metadata: pd.DataFrame
    stratify: tuple[str, ...]
    class_names: tuple[str, str]
    images: dict[str, tuple[Path, ...]]
    image_names: dict[str, tuple[str, ...]]
    tables: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.patient_ids)

    def select(self, patient_ids: Sequence[str]) -> "Cohort":
        """The cohort of these patients alone, in this order; raises DataError for those not in it."""
        index = {patient: row for row, patient in enumerate(self.patient_ids)}
        missing = [patient for patient in patient_ids if patient not in index]
        if missing:
            raise DataError(
                [f"patient {shown(patient)} is not in cohort {self.name}." for patient in missing]
            )
        rows = np.array([index[patient] for patient in patient_ids], dtype=np.int64)
        return replace(
            self,
            patient_ids=tuple(patient_ids),
            labels=self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            metadata=self.metadata.iloc[rows],
            images={patient: self.images[patient] for patient in patient_ids if patient in self.images},
            image_names={
                patient: self.image_names[patient] for patient in patient_ids if patient in self.image_names
            },
        )

    def labelled(self) -> "Cohort":
        """The patients whose label is known."""
        return self._where(self.labels >= 0)

    def unlabelled(self) -> "Cohort":
        """The patients whose label is to be predicted."""
        return self._where(self.labels < 0)

    def _where(self, mask: np.ndarray) -> "Cohort":
        return self.select([patient for patient, keep in zip(self.patient_ids, mask, strict=True) if keep])

    def digest(self) -> str:
        """SHA-256 of ids, labels, groups and metadata values in their order; paths and names do not count."""
        columns = [self.metadata[column.name].tolist() for column in self.columns]
        return digest_json(
            {
                "patient_ids": self.patient_ids,
                "labels": self.labels.tolist(),
                "groups": None if self.groups is None else self.groups.tolist(),
                "metadata": [[None if pd.isna(value) else value for value in column] for column in columns],
            }
        )


def read_cohort(path: Path | str, images: bool = True) -> Cohort:
    """Read a cohort.toml, its table and, with `images`, the names of its image files.

    Raises DataError with every problem of the TOML, the table and the folders, one line each.
    """
    path = Path(path)
    problems: list[str] = []
    declared = _read_declaration(path, images, problems)
    table = _read_declared_table(declared, images, problems)
    problems += _column_problems(declared, table)
    ids = _patient_ids(declared, table, problems)
    labels = _labels(declared, table, problems)
    groups = _groups(declared, table, problems)
    values = {each.name: _values(declared, table, each, problems) for each in declared.columns}
    found = _find_images(declared, ids, problems) if images else {}
    if problems:
        raise DataError(problems)
    return Cohort(
        name=declared.cohort["name"],
        source=path,
        patient_ids=tuple(ids),
        labels=np.array(labels, dtype=np.int8),
        groups=None if groups is None else np.array(groups, dtype=str),
        columns=declared.columns,
        metadata=_metadata(ids, values),
        stratify=declared.stratify,
        class_names=declared.class_names,
        images={patient: tuple(found[patient].values()) for patient in ids if patient in found},
        image_names={patient: tuple(found[patient]) for patient in ids if patient in found},
        tables=tuple(
            declared.path(declared.cohort[key]) for key in ("table", "image_table") if key in declared.cohort
        ),
    )


def _metadata(ids: list[str], values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    # A Series of its own keeps an object dtype, where pandas 3 would make text of it and NaN of None.
    index = pd.Index(ids, dtype=object)
    columns = {name: pd.Series(column, index, dtype=column.dtype) for name, column in values.items()}
    return pd.DataFrame(columns, index=index)


# The declaration: what cohort.toml says.


@dataclass(frozen=True)
class _Declaration:
    """The valid part of a cohort.toml."""

    source: Path
    cohort: dict[str, Any]
    columns: tuple[MetadataColumn, ...]
    stratify: tuple[str, ...]

    @property
    def table(self) -> str:
        return str(self.cohort["table"])

    @property
    def class_names(self) -> tuple[str, str]:
        return str(self.cohort.get("negative", 0)), str(self.cohort.get("positive", 1))

    def path(self, declared: str) -> Path:
        return self.source.parent / declared


def _read_declaration(path: Path, images: bool, problems: list[str]) -> _Declaration:
    document = _checked(str(path), _read_toml(path), SECTIONS, problems)
    given = document.get("cohort", {})
    cohort = _checked(f"{path} [cohort]", given, COHORT_KEYS, problems)
    problems += [f"{path} [cohort]: {problem}" for problem in _cohort_problems(given, cohort)]
    if images and "images" not in given and "image_table" not in given:
        problems.append(f"{path} [cohort]: images (folders) or image_table is missing.")
    columns = _read_columns(path, document.get("metadata", {}), problems)
    splits = _checked(f"{path} [splits]", document.get("splits", {}), SPLIT_KEYS, problems)
    stratify = tuple(splits.get("stratify", ["label"]))
    known = ("label", *document.get("metadata", {}))
    problems += [
        f'{path} [splits]: stratify names {name!r}, which is neither "label" nor a metadata name.{_nearest(name, known)}'
        for name in stratify
        if name not in known
    ]
    if "table" not in cohort or "id" not in cohort:
        raise DataError(problems)
    return _Declaration(path, cohort, columns, stratify)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid TOML: {error}.") from None


def _checked(
    where: str, given: Mapping[str, Any], known: Mapping[str, tuple[type, ...]], problems: list[str]
) -> dict[str, Any]:
    """The known keys of `given` whose values have the right type; the rest becomes problems."""
    valid = {}
    for key, value in given.items():
        if key not in known:
            problems.append(f"{where}: unknown key {key!r}.{_nearest(key, known)}")
        elif not _is_a(value, known[key]):
            words = " or ".join(TYPE_WORDS[each] for each in known[key])
            problems.append(f"{where}: {key} must be {words}, not {value!r}.")
        else:
            valid[key] = value
    return valid


def _is_a(value: Any, types: tuple[type, ...]) -> bool:
    # The exact type: to Python, true is also an integer and a time of day also a date.
    if type(value) is list:
        return list in types and bool(value) and all(isinstance(each, str) for each in value)
    return type(value) in types


def _nearest(word: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else f" Known: {', '.join(map(repr, known))}."


def _cohort_problems(given: Mapping[str, Any], cohort: Mapping[str, Any]) -> Iterator[str]:
    needed = ("name", "table", "id", *(("positive", "negative") if "label" in given else ()))
    yield from (f"{key} is missing." for key in needed if key not in given)
    if not COHORT_NAME.fullmatch(cohort.get("name", "cohort")):
        yield f"name {cohort['name']!r} must be letters, digits, spaces, dots or dashes: it names a folder."
    if "images" in cohort and "image_table" in cohort:
        yield "images and image_table are both given; keep one."
    if cohort.get("separator", ",") not in SEPARATORS:
        yield f"separator must be one of {', '.join(map(repr, SEPARATORS))}, not {cohort['separator']!r}."
    if cohort.get("decimal", ".") not in (".", ","):
        yield f'decimal must be "." or ",", not {cohort["decimal"]!r}.'
    words = {key: cohort[key] for key in ("positive", "negative", "unlabelled") if key in cohort}
    if len({_canonical(word) for word in words.values()}) < len(words):
        yield f"{', '.join(words)} must differ; they are {', '.join(map(repr, words.values()))}."


def _read_columns(path: Path, sections: Mapping[str, Any], problems: list[str]) -> tuple[MetadataColumn, ...]:
    columns = []
    for name, section in sections.items():
        where = f"{path} [metadata.{shown(name)}]"
        if not isinstance(section, dict):
            problems.append(f"{where} must be a section with column and kind, not {section!r}.")
            continue
        before = len(problems)
        valid = _checked(where, section, METADATA_KEYS, problems)
        problems += [f"{where}: {problem}" for problem in _section_problems(name, section, valid)]
        if len(problems) == before:
            columns.append(MetadataColumn(name, **valid | {"formats": tuple(valid.get("formats", ()))}))
    return tuple(columns)


def _section_problems(name: str, section: Mapping[str, Any], valid: Mapping[str, Any]) -> Iterator[str]:
    if not name or name == "label":
        yield f"a metadata column cannot be called {name!r}."
    yield from (f"{key} is missing." for key in ("column", "kind") if key not in section)
    if "kind" not in valid:
        return
    if valid["kind"] not in KINDS:
        yield f"unknown kind {valid['kind']!r}.{_nearest(valid['kind'], KINDS)}"
        return
    kind = KINDS[valid["kind"]]
    yield from (f"kind {valid['kind']!r} needs {key}." for key in kind.needs if key not in section)
    for key in valid:
        if key not in ("column", "kind", *kind.needs, *kind.takes):
            yield f"{key} has no meaning for kind {valid['kind']!r}."
    if valid.get("transform", "log") != "log":
        yield f'transform must be "log", not {valid["transform"]!r}.'
    yield from (problem for format in valid.get("formats", ()) for problem in _format_problems(format))


def _format_problems(format: str) -> Iterator[str]:
    day = datetime(1987, 11, 23)
    try:
        whole = datetime.strptime(day.strftime(format), format) == day
    except ValueError:
        whole = False
    if not whole:
        yield f"formats: {format!r} does not read a whole date; write it like %d/%m/%Y."


# The table: what a spreadsheet shows.


@dataclass(frozen=True)
class Table:
    """A table of trimmed cells; `numbers` are the rows' numbers in a spreadsheet, the header being row 1."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    problems: tuple[str, ...]

    def column(self, name: str) -> list[str] | None:
        """The cells of a column, or None where the header does not name it exactly once."""
        if self.header.count(normal_form(name)) != 1:
            return None
        place = self.header.index(normal_form(name))
        return [row[place] for row in self.rows]


def read_table(path: Path, name: str, separator: str | None = None) -> Table:
    """Read comma, semicolon or tab separated UTF-8 text; `name` stands for it in messages.

    Rows with too many or too few cells are left out and become `problems`; empty rows are skipped.
    Raises DataError where the file cannot be read at all.
    """
    text = _read_text(path, name)
    lines = _parse_rows(text, separator or guess_separator(text), name)
    header = tuple(map(normal_form, lines[0])) if lines else ()
    filled = [(number, row) for number, row in enumerate(lines[1:], start=2) if any(row)]
    problems = [
        f"{name}, row {number}: {len(row)} cells where the header has {len(header)}."
        for number, row in filled
        if len(row) != len(header)
    ]
    if not filled:
        problems.append(f"{name} has no rows below its header.")
    whole = [(number, row) for number, row in filled if len(row) == len(header)]
    return Table(
        name,
        header,
        rows=tuple(tuple(row) for _, row in whole),
        numbers=tuple(number for number, _ in whole),
        problems=tuple(problems),
    )


def _read_text(path: Path, name: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, line {line} is not UTF-8 text. Save the table as CSV in UTF-8.") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read ({path}): {error.strerror}.") from None
    except ValueError as error:  # a NUL in the path
        raise DataError(f"{shown(name)} cannot be read: {error}.") from None


def guess_separator(text: str) -> str:
    """The separator that cuts the header into most cells; a comma where none cuts it."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    return max(SEPARATORS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))


def _parse_rows(text: str, separator: str, name: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num} cannot be read as CSV: {error}.") from None


def _read_declared_table(declared: _Declaration, images: bool, problems: list[str]) -> Table:
    try:
        table = read_table(declared.path(declared.table), declared.table, declared.cohort.get("separator"))
    except DataError as error:
        problems += error.problems
        if images:
            _readable_roots(declared, problems)
        raise DataError(problems) from None
    problems += table.problems
    return table


def _column_problems(declared: _Declaration, table: Table) -> Iterator[str]:
    uses = [
        (f"[cohort] {key}", declared.cohort[key])
        for key in ("id", "label", "group")
        if key in declared.cohort
    ]
    uses += [(f"[metadata.{shown(each.name)}] column", each.column) for each in declared.columns]
    for use, column in uses:
        count = table.header.count(normal_form(column))
        if count == 0:
            yield f"{table.name} has no column {column!r} ({use}).{_nearest(column, table.header)}"
        elif count > 1:
            yield f"{table.name} has {count} columns {column!r} ({use}); rename all but one."
    for each in declared.columns:
        if each.column in (declared.cohort["id"], declared.cohort.get("label")):
            yield (
                f"[metadata.{shown(each.name)}] column {each.column!r} is the id or the label: a model that"
                " sees it learns nothing else."
            )


def is_missing(cell: str) -> bool:
    """Whether a cell stands for no value."""
    return cell.strip().lower() in MISSING


def normal_form(text: str) -> str:
    """Unicode normal form C, by which ids, folder names and headers are compared."""
    return unicodedata.normalize("NFC", text)


def shown(text: str) -> str:
    """A text as a message may show it: what cannot be printed is escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _where(declared: _Declaration, table: Table) -> list[str]:
    """Row and patient of each row, as messages name them."""
    ids = table.column(declared.cohort["id"]) or [""] * len(table.rows)
    return [
        f"{table.name}, row {number}" + (f" (patient {shown(patient)})" if patient else "")
        for number, patient in zip(table.numbers, ids, strict=True)
    ]


def _cells(declared: _Declaration, table: Table, column: str) -> Iterator[tuple[str, str]]:
    """The place of each row and its cell; nothing where the column is missing, which is a problem already."""
    cells = table.column(column)
    if cells is not None:
        yield from zip(_where(declared, table), cells, strict=True)


def _patient_ids(declared: _Declaration, table: Table, problems: list[str]) -> list[str]:
    first: dict[str, int] = {}
    for number, cell in zip(
        table.numbers, map(normal_form, table.column(declared.cohort["id"]) or []), strict=False
    ):
        if is_missing(cell):
            problems.append(f"{table.name}, row {number}: no id in column {declared.cohort['id']!r}.")
        elif cell in first:
            problems.append(
                f"{table.name}, row {number}: patient {shown(cell)} already stands in row {first[cell]}."
            )
        else:
            first[cell] = number
    return list(first)


def _canonical(word: str | int) -> str:
    """Numbers compare as numbers, so that a table's '1.0' is the 1 of cohort.toml."""
    text = str(word).strip()
    return repr(float(text)) if NUMBER.fullmatch(text) else text


def _labels(declared: _Declaration, table: Table, problems: list[str]) -> list[int]:
    cohort = declared.cohort
    if "label" not in cohort:
        return [-1] * len(table.rows)
    words = {"negative": 0, "positive": 1, "unlabelled": -1}
    known = {_canonical(cohort[key]): label for key, label in words.items() if key in cohort}
    expected = ", ".join(f"{cohort[key]!r} ({key})" for key in words if key in cohort)
    labels, others = [], []
    for place, cell in _cells(declared, table, cohort["label"]):
        labels.append(known.get(_canonical(cell), -1))
        if _canonical(cell) in known:
            continue
        if is_missing(cell):
            advice = f'Fill it in, or declare unlabelled = "{cell}" where it is to be predicted.'
            problems.append(f"{place}: no label in {cohort['label']!r}. {advice}")
        else:
            others.append(f"{place}: {cohort['label']} {cell!r}")
    problems += each_or_most(
        others,
        len(labels),
        (f"{other} is none of {expected}." for other in others),
        f"labels are none of {expected}; does the table call the classes otherwise?",
    )
    return labels


def _groups(declared: _Declaration, table: Table, problems: list[str]) -> list[str] | None:
    if "group" not in declared.cohort:
        return None
    column = declared.cohort["group"]
    groups = []
    for place, cell in _cells(declared, table, column):
        groups.append(normal_form(cell))
        if is_missing(cell):
            problems.append(
                f"{place}: no group in {column!r}. Give the row one, its own where it shares none."
            )
    return groups


# The kinds of metadata: one parser each. A parser gets a trimmed cell that is not missing, and raises
# Unreadable with what is wrong with it and what to do.


class Unreadable(ValueError):
    """A cell that its kind cannot read: what is wrong, and what to do about it in the cohort.toml."""

    def __init__(self, wrong: str, advice: str = ""):
        super().__init__(wrong)
        self.wrong, self.advice = wrong, advice


def parse_number(cell: str, column: MetadataColumn, decimal: str) -> float:
    """A finite number with the declared decimal sign; above 0 where its logarithm is taken."""
    if decimal == "," and "." in cell:
        raise Unreadable('has a point where decimal = "," is declared.')
    if decimal == "." and NUMBER.fullmatch(cell.replace(",", ".")) and "," in cell:
        advice = 'A decimal comma is read where decimal = "," stands under [cohort]'
        raise Unreadable("has a comma.", advice)
    if not NUMBER.fullmatch(cell.replace(decimal, ".")):
        raise Unreadable("is not a finite number.")
    value = float(cell.replace(decimal, "."))
    if not math.isfinite(value):
        raise Unreadable("is not a finite number.")
    if column.transform == "log" and value <= 0:
        advice = f'Correct it, empty it, or take transform = "log" out of [metadata.{shown(column.name)}]'
        raise Unreadable("is not above 0, so that it has no logarithm.", advice)
    return value


def parse_category(cell: str, column: MetadataColumn, decimal: str) -> str:
    """A word, the same in upper and in lower case."""
    return normal_form(cell.casefold().upper())


def parse_birth_date(cell: str, column: MetadataColumn, decimal: str) -> float:
    """Age in years at the reference date."""
    readings = read_date(cell, column.formats)
    section = f"[metadata.{shown(column.name)}]"
    if not readings:
        advice = f"Add its format to {section} formats"
        raise Unreadable(f"matches none of {', '.join(column.formats)}.", advice)
    if len(set(readings.values())) > 1:
        both = " and ".join(f"{day} by {format}" for format, day in readings.items())
        raise Unreadable(f"is ambiguous: {both}.", f"Leave one of these formats in {section}")
    birth = next(iter(readings.values()))
    assert column.reference is not None  # _section_problems refuses a birth date without it
    age = (column.reference - birth).days / DAYS_PER_YEAR
    if age < 0:
        raise Unreadable(f"is {birth}, after the reference {column.reference} of {section}.")
    if age > OLDEST:
        raise Unreadable(
            f"is {birth}, which makes {age:.0f} years at the reference {column.reference} of {section}."
        )
    return age


def read_date(cell: str, formats: Sequence[str]) -> dict[str, date]:
    """The date that each matching format reads."""
    readings = {}
    for format in formats:
        try:
            readings[format] = datetime.strptime(cell, format).date()
        except ValueError:
            continue
    return readings


@dataclass(frozen=True)
class Kind:
    """A kind of metadata: its parser, whether its values are numbers, and the keys it needs and takes."""

    parse: Callable[[str, MetadataColumn, str], float | str]
    numeric: bool
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "number": Kind(parse_number, numeric=True, takes=("transform", "unit")),
    "category": Kind(parse_category, numeric=False),
    "birth-date": Kind(parse_birth_date, numeric=True, needs=("formats", "reference")),
}


def _values(declared: _Declaration, table: Table, column: MetadataColumn, problems: list[str]) -> np.ndarray:
    """(P,) the values of a metadata column; what cannot be read becomes problems, its advice said once."""
    kind, decimal = KINDS[column.kind], declared.cohort.get("decimal", ".")
    values: list[float | str | None] = []
    wrong: dict[str, list[str]] = defaultdict(list)
    advice: dict[str, None] = {}
    for place, cell in _cells(declared, table, column.column):
        try:
            values.append(None if is_missing(cell) else kind.parse(cell, column, decimal))
        except Unreadable as error:
            values.append(None)
            wrong[error.wrong].append(f"{place}: {column.column} {cell!r}")
            advice[error.advice] = None
    for what, cells in wrong.items():
        told = [f"{cell} {what}" for cell in cells]
        problems += each_or_most(cells, len(values), told, f"cells: each {what} They are")
    problems += [f"{line} in {declared.source}." for line in advice if line]
    return np.array(values, dtype=np.float64 if kind.numeric else object)


# The images: which files there are, without opening one.


@dataclass(frozen=True)
class _Folder:
    """A patient's folder: the root as declared, and the path to open."""

    root: str
    path: Path


def _find_images(
    declared: _Declaration, patients: Collection[str], problems: list[str]
) -> dict[str, dict[str, Path]]:
    """Image names and paths of each patient, in the order of the names."""
    if not patients:  # the id column is missing: every folder would be a stranger
        return {}
    if "image_table" in declared.cohort:
        found = _images_of_table(declared, patients, problems)
    elif "images" in declared.cohort:
        found = _images_of_folders(declared, patients, problems)
    else:
        return {}
    return {patient: dict(sorted(names.items())) for patient, names in found.items()}


def _images_of_folders(
    declared: _Declaration, patients: Collection[str], problems: list[str]
) -> dict[str, dict[str, Path]]:
    others: list[str] = []
    roots = _readable_roots(declared, problems)
    folders = _patient_folders(declared, roots, patients, problems, others)
    found = {patient: _images_of_patient(patient, folders[patient], problems, others) for patient in folders}
    if others:
        named = ", ".join(map(shown, others[:10])) + (", ..." if len(others) > 10 else "")
        logger.warning("%d files without an image ending are left out: %s", len(others), named)
    every_root = len(roots) == len(declared.cohort["images"])
    if every_root:  # else each patient of a missing root would be told again
        problems += _patients_without_images(declared, patients, found)
    return found


def _readable_roots(declared: _Declaration, problems: list[str]) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for root in declared.cohort.get("images", []):
        path = declared.path(root)
        try:
            if not path.is_dir():
                problems.append(
                    f"{shown(root)} is not a folder ({shown(str(path))}); [cohort] images names it."
                )
            elif any(path.samefile(other) for other in roots.values()):
                problems.append(f"{shown(root)} is named twice in [cohort] images.")
            else:
                roots[root] = path
        except (OSError, ValueError) as error:
            problems.append(f"{shown(root)} cannot be read: {error}.")
    return roots


def _patient_folders(
    declared: _Declaration,
    roots: Mapping[str, Path],
    patients: Collection[str],
    problems: list[str],
    others: list[str],
) -> dict[str, list[_Folder]]:
    """The folders of each patient; ids and folder names are matched in Unicode normal form C."""
    folders: dict[str, list[_Folder]] = defaultdict(list)
    known = set(patients)
    strangers: list[str] = []
    for root, path in roots.items():
        for entry in listing(path, problems):
            place = f"{shown(root)}/{shown(entry.name)}"
            patient = normal_form(entry.name)
            if entry.name.startswith(".") or not holds(entry.is_dir):
                _note_loose_file(entry, place, problems, others)
            elif patient not in known:
                strangers.append(place)
            elif any(folder.root == root for folder in folders[patient]):
                problems.append(f"{place} is a second folder of patient {shown(patient)} in {shown(root)}.")
            else:
                folders[patient].append(_Folder(root, Path(entry.path)))
    problems += each_or_most(
        strangers,
        len(strangers) + len(folders),
        (f"{place} has no row in {declared.table}." for place in strangers),
        f"folders have no row in {declared.table}; is it the table of these images?",
    )
    return folders


def holds(check: Callable[[], bool]) -> bool:
    """Whether a file is what `check` asks; what cannot be reached is not."""
    try:
        return check()
    except (OSError, ValueError):  # a link to itself, a folder that may not be entered, a NUL in the path
        return False


def _note_loose_file(entry: os.DirEntry[str], place: str, problems: list[str], others: list[str]) -> None:
    if holds(entry.is_dir):  # hidden, like .ipynb_checkpoints
        return
    if is_image(entry.name):
        problems.append(f"{place} lies in no patient's folder. Move it, or name images in an image_table.")
    else:
        others.append(place)


def is_image(name: str) -> bool:
    """Whether a file name is visible and has an image ending, in upper or lower case."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def listing(folder: Path, problems: list[str]) -> list[os.DirEntry[str]]:
    """The entries of a folder by name; not to be read is a problem."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{shown(str(folder))} cannot be read: {error.strerror}.")
        return []


def _images_of_patient(
    patient: str, folders: Sequence[_Folder], problems: list[str], others: list[str]
) -> dict[str, Path]:
    images: dict[str, Path] = {}
    seen: set[str] = set()
    for folder in folders:
        prefix = f"{Path(folder.root).as_posix()}/" if len(folders) > 1 else ""
        for name, entry in _files_below(folder.path, problems, seen):
            if not is_image(entry.name):
                others.append(entry.path)
            elif not holds(entry.is_file):
                problems.append(f"{shown(entry.path)} is not a file, or a link that leads nowhere.")
            elif prefix + name in images:
                problems.append(f"patient {shown(patient)} has two images named {shown(prefix + name)}.")
            else:
                images[prefix + name] = Path(entry.path)
    return images


def _files_below(
    folder: Path, problems: list[str], seen: set[str], prefix: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below `folder` with its path from there; a folder that links reach twice is entered once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in listing(folder, problems):
        if not holds(entry.is_dir):
            yield prefix + entry.name, entry
        elif not entry.name.startswith("."):
            yield from _files_below(Path(entry.path), problems, seen, f"{prefix}{entry.name}/")


def _patients_without_images(
    declared: _Declaration, patients: Collection[str], found: Mapping[str, Mapping[str, Path]]
) -> Iterator[str]:
    where = declared.cohort.get("image_table") or " or ".join(map(shown, declared.cohort["images"]))
    without = [shown(patient) for patient in patients if not found.get(patient)]
    yield from each_or_most(
        without,
        len(patients),
        (f"{declared.table}: patient {patient} has no images in {where}." for patient in without),
        f"patients of {declared.table} have no images in {where}:",
    )


def _images_of_table(
    declared: _Declaration, patients: Collection[str], problems: list[str]
) -> dict[str, dict[str, Path]]:
    name = declared.cohort["image_table"]
    try:
        table = read_table(declared.path(name), name)
    except DataError as error:
        problems += error.problems
        return {}
    problems += table.problems
    ids, paths = table.column("patient"), table.column("path")
    if ids is None or paths is None:
        problems.append(
            f"{name} needs the columns patient and path; it has {', '.join(map(repr, table.header))}."
        )
        return {}
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    first: dict[str, int] = {}
    known = set(patients)
    for number, patient, path in zip(table.numbers, map(normal_form, ids), paths, strict=True):
        problem = _image_row_problem(declared, known, patient, path, first)
        if problem:
            problems.append(f"{name}, row {number}: {problem}")
        else:
            first[os.path.normpath(path)] = number
            found[patient][Path(path).as_posix()] = declared.path(path)
    problems += _patients_without_images(declared, patients, found)
    return found


def _image_row_problem(
    declared: _Declaration, patients: Collection[str], patient: str, path: str, first: Mapping[str, int]
) -> str | None:
    if patient not in patients:
        return f"patient {patient!r} has no row in {declared.table}."
    if not is_image(Path(path).name):
        return f"path {path!r} has no image ending ({' '.join(sorted(IMAGE_ENDINGS))})."
    if os.path.normpath(path) in first:
        return f"path {path!r} already stands in row {first[os.path.normpath(path)]}."
    if not holds(declared.path(path).is_file):
        return f"path {path!r} is not a file."
    return None
