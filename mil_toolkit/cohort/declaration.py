"""`read_declaration` reads and checks a cohort.toml."""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mil_toolkit.cohort.dates import problem_of_format
from mil_toolkit.cohort.delimited import SEPARATORS
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.toml import (
    TomlTable,
    TomlValue,
    checked_values,
    keys_of,
    read_toml,
    shown,
    subsection,
    suggestion,
)
from mil_toolkit.core.text import printable
from mil_toolkit.outcomes.kinds import KINDS as OUTCOMES
from mil_toolkit.outcomes.kinds import foreign_key_problems, keys_of_kind, kind_of
from mil_toolkit.outcomes.outcome import Outcome

Section = TypeVar("Section")

COHORT_NAME = re.compile(r"\w[\w. -]*")  # it names a folder of the cache
NAME_BYTES = 200
DECIMALS = (".", ",")
BEFORE_OUTCOME = ("name", "table", "images", "image_table", "id")  # keys that messages list first


@dataclass(frozen=True)
class CohortSection:
    """The `[cohort]` section without the keys of the outcome, one field per key.

    A key that is absent or invalid has its default.
    """

    name: str = ""
    table: str = ""
    images: tuple[str, ...] = ()
    image_table: str | None = None
    id: str = ""
    group: str | None = None
    separator: str | None = None
    sheet: str | None = None
    decimal: str = "."
    microns_per_pixel: int | float | str | None = None  # a number, or the name of a column


@dataclass(frozen=True)
class SplitsSection:
    """The `[splits]` section, one field per key."""

    stratify: tuple[str, ...] = ("label",)
    folds: str | tuple[str, ...] | None = None

    @property
    def fold_files(self) -> tuple[str, ...]:
        """The files of the official folds; empty if none are declared."""
        return (self.folds,) if isinstance(self.folds, str) else self.folds or ()


@dataclass(frozen=True)
class StudySection:
    """The `[study]` section, one field per key: what a report has to state and a table cannot tell.

    lowest_threshold, highest_threshold: range of probabilities at which the clinic might refer a patient
    """

    setting: str | None = None
    dates: str | None = None
    eligibility: str | None = None
    reference_standard: str | None = None
    intended_use: str | None = None
    fairness: str | None = None
    lowest_threshold: float = 0.05
    highest_threshold: float = 0.95


# The known keys and their types follow from the dataclasses.
SECTIONS: dict[str, tuple[type, ...]] = dict.fromkeys(("cohort", "metadata", "splits", "study"), (dict,))
_SECTION_KEYS = keys_of(CohortSection)
_OUTCOME_KEYS = {key: types for outcome in OUTCOMES.values() for key, types in keys_of(outcome).items()}
COHORT_KEYS = {  # those of the outcome after the id
    **{key: _SECTION_KEYS[key] for key in _SECTION_KEYS if key in BEFORE_OUTCOME},
    **_OUTCOME_KEYS,
    **{key: _SECTION_KEYS[key] for key in _SECTION_KEYS if key not in BEFORE_OUTCOME},
}
METADATA_KEYS = {key: types for key, types in keys_of(MetadataColumn).items() if key != "name"}
SPLIT_KEYS = keys_of(SplitsSection)
STUDY_KEYS = keys_of(StudySection)


@dataclass(frozen=True)
class Declaration:
    """The valid part of a cohort.toml; `columns` are the valid `[metadata.NAME]` sections."""

    source: Path
    cohort: CohortSection
    outcome: Outcome
    columns: tuple[MetadataColumn, ...]
    splits: SplitsSection
    study: StudySection

    def path(self, declared: str) -> Path:
        """Return a declared path, which is relative to the cohort.toml."""
        return self.source.parent / declared


def read_declaration(path: Path, images: bool, problems: Problems) -> Declaration:
    """Read a cohort.toml and return its valid part; `images`: whether the images must be declared.

    Raises DataError if the file cannot be read, or if without `table` or `id` nothing else can be.
    """
    name = printable(path)
    document = checked_values(name, read_toml(path), SECTIONS, problems)
    given = subsection(document, "cohort")
    valid = checked_values(f"{name} [cohort]", given, COHORT_KEYS, problems)
    cohort = _build(CohortSection, {key: value for key, value in valid.items() if key in _SECTION_KEYS})
    outcome = _read_outcome(given, valid)
    _check_cohort(f"{name} [cohort]", given, valid, cohort, outcome, problems)
    if images and "images" not in given and "image_table" not in given:
        problems.add("images (folders) or image_table is missing.", f"{name} [cohort]")
    metadata = subsection(document, "metadata")
    columns = _read_columns(path, metadata, problems)
    splits = _read_splits(f"{name} [splits]", subsection(document, "splits"), metadata, problems)
    study = _read_study(f"{name} [study]", subsection(document, "study"), problems)
    if "table" not in valid or "id" not in valid:
        problems.raise_if_any()
    return Declaration(path, cohort, outcome, columns, splits, study)


def _read_outcome(given: TomlTable, valid: TomlTable) -> Outcome:
    """Return the outcome that the keys of `[cohort]` declare, with its valid values."""
    kind = kind_of(given)
    keys = keys_of_kind(kind)
    return _build(OUTCOMES[kind], {key: value for key, value in valid.items() if key in keys})


def _build(section: Callable[..., Section], valid: TomlTable) -> Section:
    """Return the dataclass of a section with its checked values; lists become tuples."""
    return section(**{key: _with_tuples(value) for key, value in valid.items()})


def _with_tuples(value: TomlValue) -> object:
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _check_cohort(
    place: str,
    given: TomlTable,
    valid: TomlTable,
    cohort: CohortSection,
    outcome: Outcome,
    problems: Problems,
) -> None:
    missing = [key for key in ("name", "table", "id") if key not in given]
    for key in [*missing, *outcome.missing_keys(given)]:
        problems.add(f"{key} is missing.", place)
    if "name" in valid and not COHORT_NAME.fullmatch(cohort.name):
        allowed = "start with a letter or digit and contain only letters, digits, _, spaces, dots and dashes"
        problems.add(f"name {cohort.name!r} must {allowed}, because it names a folder.", place)
    if len(cohort.name.encode()) > NAME_BYTES:
        problems.add(f"name has more than {NAME_BYTES} bytes, too many for the name of a folder.", place)
    if cohort.images and cohort.image_table is not None:
        problems.add("images and image_table are both given; keep only one.", place)
    if cohort.separator is not None and cohort.separator not in SEPARATORS:
        expected = ", ".join(map(repr, SEPARATORS))
        problems.add(f"separator must be one of {expected}, not {cohort.separator!r}.", place)
    if cohort.decimal not in DECIMALS:
        problems.add(f'decimal must be "." or ",", not {cohort.decimal!r}.', place)
    resolution = cohort.microns_per_pixel
    if isinstance(resolution, int | float) and not 0 < resolution < math.inf:
        problems.add(f"microns_per_pixel must be a positive number, not {resolution}.", place)
    for text in (*foreign_key_problems(given), *outcome.declaration_problems(given)):
        problems.add(text, place)


def _read_columns(path: Path, sections: TomlTable, problems: Problems) -> tuple[MetadataColumn, ...]:
    columns = []
    for name, section in sections.items():
        place = f"{printable(path)} [metadata.{printable(name)}]"
        if not isinstance(section, dict):
            problems.add(f"{place} must be a section with column and kind, not {shown(section)}.")
            continue
        before = len(problems)
        valid = checked_values(place, section, METADATA_KEYS, problems)
        column = _build(MetadataColumn, {"name": name, "column": "", "kind": "", **valid})
        _check_column(place, section, valid, column, problems)
        if len(problems) == before:
            columns.append(column)
    return tuple(columns)


def _check_column(
    place: str, given: TomlTable, valid: TomlTable, column: MetadataColumn, problems: Problems
) -> None:
    if column.name in ("", "label"):
        problems.add(f"a metadata column cannot be called {column.name!r}.", place)
    for key in ("column", "kind"):
        if key not in given:
            problems.add(f"{key} is missing.", place)
    if "kind" not in valid:
        return
    if column.kind not in KINDS:
        problems.add(f"unknown kind {column.kind!r}.{suggestion(column.kind, KINDS)}", place)
        return
    _check_keys_of_kind(place, column.kind, given, valid, problems)
    if column.transform not in (None, "log"):
        problems.add(f'transform must be "log", not {column.transform!r}.', place)
    _check_formats(place, column.formats, problems)


def _check_keys_of_kind(
    place: str, name: str, given: Collection[str], valid: Collection[str], problems: Problems
) -> None:
    kind = KINDS[name]
    for key in kind.needs:
        if key not in given:
            problems.add(f"kind {name!r} requires {key}.", place)
    for key in valid:
        if key not in ("column", "kind", *kind.needs, *kind.takes):
            problems.add(f"{key} does not apply to kind {name!r}.", place)


def _check_formats(place: str, formats: Sequence[str], problems: Problems) -> None:
    """Report each format that does not write and read back a whole date."""
    for format in formats:
        problem = problem_of_format(format)
        if problem is not None:
            problems.add(f"formats: {format!r} {problem}.", place)


def _read_splits(
    place: str, given: TomlTable, metadata: Collection[str], problems: Problems
) -> SplitsSection:
    splits = _build(SplitsSection, checked_values(place, given, SPLIT_KEYS, problems))
    known = ("label", *metadata)
    for name in splits.stratify:
        if name not in known:
            text = f'stratify names {name!r}, which is neither "label" nor a metadata name.'
            problems.add(text + suggestion(name, known), place)
    repeated = [name for name, count in Counter(splits.fold_files).items() if count > 1]
    if repeated:
        problems.add(f"folds lists {', '.join(map(repr, repeated))} more than once.", place)
    return splits


def _read_study(place: str, given: TomlTable, problems: Problems) -> StudySection:
    study = _build(StudySection, checked_values(place, given, STUDY_KEYS, problems))
    if not 0 < study.lowest_threshold < study.highest_threshold < 1:
        given_range = f"{study.lowest_threshold:g} and {study.highest_threshold:g}"
        problems.add(
            "lowest_threshold and highest_threshold must be probabilities between 0 and 1 in this order, not"
            f" {given_range}.",
            place,
        )
    return study
