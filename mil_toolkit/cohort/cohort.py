"""`read_cohort` reads a cohort.toml with its table and folders into a `Cohort`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.columns import (
    check_columns,
    read_groups,
    read_patient_ids,
    read_scales,
    read_targets,
    read_values,
)
from mil_toolkit.cohort.declaration import Declaration, StudySection, read_declaration
from mil_toolkit.cohort.delimited import SEPARATORS
from mil_toolkit.cohort.excluded import select_rows
from mil_toolkit.cohort.image_folders import readable_roots
from mil_toolkit.cohort.images import find_images
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.cohort.official_folds import FoldPatient, OfficialFolds, read_folds
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.spellings import read_spellings
from mil_toolkit.cohort.table import TextTable, read_table
from mil_toolkit.cohort.value_warnings import warn_of_values
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_json
from mil_toolkit.core.run_log import stage
from mil_toolkit.core.text import printable
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.outcome import Outcome


@dataclass(frozen=True, eq=False)
class Cohort:
    """P patients with their labels, M metadata columns and images, in the order of the table.

    source: the cohort.toml
    patient_ids: P ids, trimmed, in Unicode normal form C
    outcome: what is predicted; labels: its targets, whose first axis is the patients
    groups: (P,) str, or None if no group column is declared
    metadata: (P, M) by patient and metadata name, not transformed: numbers in the declared unit and ages in
        years as float64, NaN if missing; categories in upper case, None if missing
    stratify: what the inner folds are stratified by: "label" or metadata names
    images: the image files of each patient in the order of their names; empty if read without images
    image_names: for each path in `images`, the image's name within its patient: the path below the patient's
        folder (after the root's name if several roots contain the patient), or the path in the image table
    tables: the files that the cohort was read from besides `source`
    spellings: how the cells of a column are written, see `read_spellings`; (P,) by metadata name
    study: what the cohort.toml says about the study, for reports
    scales: the micrometres per pixel of each patient's images, where the cohort.toml or the table states it
    excluded: rows of the table that `exclude` leaves out, by the word of their label
    folds: the official folds of all labelled patients, if the cohort.toml declares any
    """

    name: str
    source: Path
    patient_ids: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray | None
    columns: tuple[MetadataColumn, ...]
    metadata: pd.DataFrame
    stratify: tuple[str, ...]
    images: dict[str, tuple[Path, ...]]
    image_names: dict[str, tuple[str, ...]]
    tables: tuple[Path, ...] = ()
    spellings: Mapping[str, np.ndarray] = field(default_factory=dict)
    study: StudySection = field(default_factory=StudySection)
    excluded: Mapping[str, int] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    folds: OfficialFolds | None = None
    outcome: Outcome = field(default_factory=Binary)

    def __len__(self) -> int:
        return len(self.patient_ids)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The table's words for each class; empty if the outcome has no classes."""
        return self.outcome.class_names

    @property
    def microns_per_pixel(self) -> float | None:
        """The resolution that the images of all patients have; None if it differs or is unknown."""
        scales = {self.scales.get(patient) for patient in self.patient_ids}
        return scales.pop() if len(scales) == 1 else None

    def select(self, patient_ids: Sequence[str]) -> "Cohort":
        """Return the cohort of only these patients, in this order.

        Raises DataError that names every patient who is not in the cohort.
        """
        index = {patient: row for row, patient in enumerate(self.patient_ids)}
        missing = [patient for patient in patient_ids if patient not in index]
        if missing:
            raise DataError(
                [f"patient {printable(patient)} is not in cohort {self.name}." for patient in missing]
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
            spellings={name: ways[rows] for name, ways in self.spellings.items()},
            scales={patient: self.scales[patient] for patient in patient_ids if patient in self.scales},
        )

    def labelled(self) -> "Cohort":
        """Return the patients whose outcome is known."""
        return self._where(self.outcome.known(self.labels))

    def unlabelled(self) -> "Cohort":
        """Return the patients whose outcome is to be predicted."""
        return self._where(~self.outcome.known(self.labels))

    def _where(self, mask: np.ndarray) -> "Cohort":
        return self.select([patient for patient, keep in zip(self.patient_ids, mask, strict=True) if keep])

    def digest(self) -> str:
        """Return the SHA-256 of the ids, labels, groups and metadata values in order; paths do not count."""
        columns = [self.metadata[column.name].tolist() for column in self.columns]
        return digest_json(
            {
                "patient_ids": self.patient_ids,
                "labels": self.labels.tolist(),
                "groups": None if self.groups is None else self.groups.tolist(),
                "metadata": [[None if pd.isna(value) else value for value in column] for column in columns],
            }
        )


@stage("Reading the cohort")
def read_cohort(path: Path | str, images: bool = True, log: bool = True, complete: bool = True) -> Cohort:
    """Read a cohort.toml, its table and, if `images`, the names of its image files.

    log: whether to log which rows, files and folders are left out, and which values are implausible
    complete: whether a patient without images is a problem, if `images`

    Raises DataError with every problem of the TOML, the table and the folders, one line each.
    """
    problems = Problems()
    declared = read_declaration(Path(path), images, problems)
    whole = _read_declared_table(declared, images, problems)
    check_columns(declared, whole, problems)
    selection = select_rows(declared, whole, problems)
    table = selection.table
    before = len(problems)
    ids = read_patient_ids(declared, table, problems)
    labels = read_targets(declared, table, problems)
    groups = read_groups(declared, table, problems)
    sound = len(problems) == before and len(ids) == len(labels)
    scales = read_scales(declared, table, problems)
    values = {column.name: read_values(declared, table, column, problems) for column in declared.columns}
    patients = _fold_patients(ids, declared.outcome.known(labels), groups)
    targets = labels if sound else None
    folds = read_folds(declared, patients, targets, selection.excluded, problems, log=log)
    paths = find_images(declared, ids, selection.excluded, problems, log, complete) if images else {}
    problems.raise_if_any()
    if log:
        selection.log()
        warn_of_values(declared, table, values, labels)
    return Cohort(
        name=declared.cohort.name,
        source=declared.source,
        patient_ids=tuple(ids),
        labels=labels,
        groups=None if groups is None else np.array(groups, dtype=str),
        columns=declared.columns,
        metadata=metadata_table(ids, values),
        stratify=declared.splits.stratify,
        images={patient: tuple(paths[patient].values()) for patient in ids if patient in paths},
        image_names={patient: tuple(paths[patient]) for patient in ids if patient in paths},
        tables=tuple(
            declared.path(name)
            for name in (declared.cohort.table, declared.cohort.image_table, *declared.splits.fold_files)
            if name is not None
        ),
        spellings=read_spellings(declared, table),
        study=declared.study,
        excluded=dict(selection.rows),
        scales={patient: scale for patient, scale in zip(ids, scales, strict=True) if not math.isnan(scale)},
        folds=folds,
        outcome=declared.outcome,
    )


def _read_declared_table(declared: Declaration, images: bool, problems: Problems) -> TextTable:
    name, separator = declared.cohort.table, declared.cohort.separator
    valid_separator = separator if separator in SEPARATORS else None  # an invalid one is already reported
    table = read_table(declared.path(name), name, problems, valid_separator, declared.cohort.sheet)
    if table is None:
        if images:
            readable_roots(declared, problems)
        problems.raise_if_any()
    assert table is not None  # or the reason is among the problems
    return table


def _fold_patients(
    ids: Sequence[str], known: np.ndarray, groups: Sequence[str] | None
) -> dict[str, FoldPatient]:
    """Return the part of each patient's data that the folds need; unlabelled where it could not be read."""
    rows = zip_longest(ids, known[: len(ids)], (groups or ())[: len(ids)])
    return {
        patient: FoldPatient(bool(labelled), row, group)
        for row, (patient, labelled, group) in enumerate(rows)
    }


def metadata_table(ids: Sequence[str], values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return the metadata of patients from the values (P,) of each column, float64 or object."""
    # A Series keeps an object dtype. From an array, pandas 3 would make text, and NaN of None.
    index = pd.Index(list(ids), dtype=object)
    columns = {name: pd.Series(column, index, dtype=column.dtype) for name, column in values.items()}
    return pd.DataFrame(columns, index=index)
