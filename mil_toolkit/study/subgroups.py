"""Subgroups of the labelled patients, by category, by range of a number, by group and by bag size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mil_toolkit.study.records import ColumnRecord, PatientsRecord

AGE_EDGES = (50.0, 65.0, 80.0)  # years: the bands in which lymphocytoses are usually reported
_TERCILES = (1 / 3, 2 / 3)
_MISSING = "missing"


@dataclass(frozen=True)
class Subgroup:
    """Some patients, and why they are a subgroup.

    variable: name of the column, "group" or "images"; level: the category or range
    """

    variable: str
    level: str
    patient_ids: tuple[str, ...]


def subgroups(record: PatientsRecord) -> list[Subgroup]:
    """Return the subgroups of a study's patients; a variable with a single level gives none.

    Every category is a subgroup. Ages are divided at 50, 65 and 80 years, other numbers and the number of
    images at their terciles. Patients without a value are a subgroup, too.
    """
    found: list[Subgroup] = []
    for variable, levels in _variables(record):
        labels = [level for _, level in sorted(set(levels))]
        if len(labels) > 1:
            found += [_subgroup(record, variable, levels, level) for level in labels]
    return found


Level = tuple[float, str]  # place among the levels of a variable, and name


def _variables(record: PatientsRecord) -> Iterator[tuple[str, list[Level]]]:
    """Yield each variable with the level of every patient."""
    patients = record.patients
    for column in record.columns:
        yield column.name, _levels(column, [patient.metadata[column.name] for patient in patients])
    groups = [patient.group for patient in patients]
    if any(group is not None for group in groups):
        yield "group", [(0.0, group or _MISSING) for group in groups]
    sizes = [None if patient.images is None else float(patient.images) for patient in patients]
    if any(size is not None for size in sizes):
        yield "images", _ranges(sizes, _edges(sizes), "")


def _levels(column: ColumnRecord, values: Sequence[float | str | None]) -> list[Level]:
    if column.kind == "category":
        return [(1.0, _MISSING) if value is None else (0.0, str(value)) for value in values]
    numbers = [None if value is None else float(value) for value in values]
    edges = np.array(AGE_EDGES) if column.kind == "birth-date" else _edges(numbers)
    return _ranges(numbers, edges, column.shown_unit)


def _edges(values: Sequence[float | None]) -> np.ndarray:
    known = [value for value in values if value is not None]
    return np.unique(np.quantile(known, _TERCILES)) if known else np.array([])


def _ranges(values: Sequence[float | None], edges: np.ndarray, unit: str) -> list[Level]:
    """Return the range of each value between the edges, each of which belongs to the range above it."""
    texts = [f"{edge:.4g}" for edge in edges]
    below = [f"below {text}" for text in texts[:1]]
    between = [f"{low} to below {high}" for low, high in pairwise(texts)]
    names = [*below, *between, *[f"{text} or more" for text in texts[-1:]]] or ["all"]
    suffix = f" {unit}" if unit else ""
    levels: list[Level] = []
    for value in values:
        if value is None:
            levels.append((float(len(names)), _MISSING))
        else:
            place = int(np.searchsorted(edges, value, side="right"))
            levels.append((float(place), names[place] + suffix))
    return levels


def _subgroup(record: PatientsRecord, variable: str, levels: Sequence[Level], name: str) -> Subgroup:
    pairs = zip(record.patients, levels, strict=True)
    return Subgroup(variable, name, tuple(patient.id for patient, (_, level) in pairs if level == name))
