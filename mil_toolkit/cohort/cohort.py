"""`read_cohort` reads a cohort.toml with its table and folders, and names every problem in one error."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.declaration import Declaration, read_declaration, suggestion
from mil_toolkit.cohort.images import find_images, readable_roots
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn, Unreadable
from mil_toolkit.cohort.table import Table, canonical_word, is_missing, normal_form, read_table
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_json
from mil_toolkit.core.text import each_or_most, shown


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
    declared = read_declaration(path, images, problems)
    table = _read_declared_table(declared, images, problems)
    problems += _column_problems(declared, table)
    ids = _patient_ids(declared, table, problems)
    labels = _labels(declared, table, problems)
    groups = _groups(declared, table, problems)
    values = {each.name: _values(declared, table, each, problems) for each in declared.columns}
    found = find_images(declared, ids, problems) if images else {}
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


def _read_declared_table(declared: Declaration, images: bool, problems: list[str]) -> Table:
    try:
        table = read_table(declared.path(declared.table), declared.table, declared.cohort.get("separator"))
    except DataError as error:
        problems += error.problems
        if images:
            readable_roots(declared, problems)
        raise DataError(problems) from None
    problems += table.problems
    return table


def _column_problems(declared: Declaration, table: Table) -> Iterator[str]:
    uses = [
        (f"[cohort] {key}", declared.cohort[key])
        for key in ("id", "label", "group")
        if key in declared.cohort
    ]
    uses += [(f"[metadata.{shown(each.name)}] column", each.column) for each in declared.columns]
    for use, column in uses:
        count = table.header.count(normal_form(column))
        if count == 0:
            yield f"{table.name} has no column {column!r} ({use}).{suggestion(column, table.header)}"
        elif count > 1:
            yield f"{table.name} has {count} columns {column!r} ({use}); rename all but one."
    for each in declared.columns:
        if each.column in (declared.cohort["id"], declared.cohort.get("label")):
            yield (
                f"[metadata.{shown(each.name)}] column {each.column!r} is the id or the label: a model that"
                " sees it learns nothing else."
            )


def _where(declared: Declaration, table: Table) -> list[str]:
    """Row and patient of each row, as messages name them."""
    ids = table.column(declared.cohort["id"]) or [""] * len(table.rows)
    return [
        f"{table.name}, row {number}" + (f" (patient {shown(patient)})" if patient else "")
        for number, patient in zip(table.numbers, ids, strict=True)
    ]


def _cells(declared: Declaration, table: Table, column: str) -> Iterator[tuple[str, str]]:
    """The place of each row and its cell; nothing where the column is missing, which is a problem already."""
    cells = table.column(column)
    if cells is not None:
        yield from zip(_where(declared, table), cells, strict=True)


def _patient_ids(declared: Declaration, table: Table, problems: list[str]) -> list[str]:
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


def _labels(declared: Declaration, table: Table, problems: list[str]) -> list[int]:
    cohort = declared.cohort
    if "label" not in cohort:
        return [-1] * len(table.rows)
    words = {"negative": 0, "positive": 1, "unlabelled": -1}
    known = {canonical_word(cohort[key]): label for key, label in words.items() if key in cohort}
    expected = ", ".join(f"{cohort[key]!r} ({key})" for key in words if key in cohort)
    labels, others = [], []
    for place, cell in _cells(declared, table, cohort["label"]):
        labels.append(known.get(canonical_word(cell), -1))
        if canonical_word(cell) in known:
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


def _groups(declared: Declaration, table: Table, problems: list[str]) -> list[str] | None:
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


def _values(declared: Declaration, table: Table, column: MetadataColumn, problems: list[str]) -> np.ndarray:
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
