"""`read_declaration` reads and checks a cohort.toml."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from mil_toolkit.cohort.cells import canonical_word
from mil_toolkit.cohort.dates import problem_of_format
from mil_toolkit.cohort.delimited import SEPARATORS
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.toml import (
    TomlTable,
    checked_values,
    keys_of,
    read_toml,
    shown,
    subsection,
    suggestion,
)
from mil_toolkit.core.text import printable

Section = TypeVar("Section")
Words: TypeAlias = str | int | tuple[str | int, ...]  # one word of the label column, or several

COHORT_NAME = re.compile(r"\w[\w. -]*")  # it names a folder of the cache
NAME_BYTES = 200
DECIMALS = (".", ",")


@dataclass(frozen=True)
class CohortSection:
    """The `[cohort]` section, one field per key. A key that is absent or invalid has its default."""

    name: str = ""
    table: str = ""
    images: tuple[str, ...] = ()
    image_table: str | None = None
    id: str = ""
    label: str | None = None
    positive: Words | None = None
    negative: Words | None = None
    unlabelled: Words | None = None
    exclude: Words | None = None
    group: str | None = None
    separator: str | None = None
    sheet: str | None = None
    decimal: str = "."
    microns_per_pixel: int | float | str | None = None  # a number, or the name of a column

    def label_words(self) -> dict[str, tuple[str | int, ...]]:
        """Return the declared words of the label column by their keys, class 0 first."""
        words = {
            "negative": self.negative,
            "positive": self.positive,
            "unlabelled": self.unlabelled,
            "exclude": self.exclude,
        }
        return {key: _several(word) for key, word in words.items() if word is not None}


def _several(words: Words) -> tuple[str | int, ...]:
    return words if isinstance(words, tuple) else (words,)


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
COHORT_KEYS = keys_of(CohortSection)
METADATA_KEYS = {key: types for key, types in keys_of(MetadataColumn).items() if key != "name"}
SPLIT_KEYS = keys_of(SplitsSection)
STUDY_KEYS = keys_of(StudySection)


@dataclass(frozen=True)
class Declaration:
    """The valid part of a cohort.toml; `columns` are the valid `[metadata.NAME]` sections."""

    source: Path
    cohort: CohortSection
    columns: tuple[MetadataColumn, ...]
    splits: SplitsSection
    study: StudySection

    @property
    def class_names(self) -> tuple[str, str]:
        """The words for class 0 and class 1; several words of a class are joined with "or"."""
        negative, positive = self.class_words
        return " or ".join(negative or "0"), " or ".join(positive or "1")

    @property
    def class_words(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """All words for class 0 and for class 1; empty if they are not declared."""
        words = self.cohort.label_words()
        return tuple(map(str, words.get("negative", ()))), tuple(map(str, words.get("positive", ())))

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
    cohort = _build(CohortSection, valid)
    _check_cohort(f"{name} [cohort]", given, valid, cohort, problems)
    if images and "images" not in given and "image_table" not in given:
        problems.add("images (folders) or image_table is missing.", f"{name} [cohort]")
    metadata = subsection(document, "metadata")
    columns = _read_columns(path, metadata, problems)
    splits = _read_splits(f"{name} [splits]", subsection(document, "splits"), metadata, problems)
    study = _read_study(f"{name} [study]", subsection(document, "study"), problems)
    if "table" not in valid or "id" not in valid:
        problems.raise_if_any()
    return Declaration(path, cohort, columns, splits, study)


def _build(section: Callable[..., Section], valid: TomlTable) -> Section:
    """Return the dataclass of a section with its checked values; lists become tuples."""
    return section(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in valid.items()}
    )


def _check_cohort(
    place: str, given: TomlTable, valid: TomlTable, cohort: CohortSection, problems: Problems
) -> None:
    for key in ("name", "table", "id", *(("positive", "negative") if "label" in given else ())):
        if key not in given:
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
    if cohort.exclude is not None and "label" not in given:
        problems.add("exclude lists words of the label column, but label is missing.", place)
    _check_words(place, cohort, problems)


def _check_words(place: str, cohort: CohortSection, problems: Problems) -> None:
    """Report words of the label column that are declared more than once."""
    words = cohort.label_words()
    uses: dict[str, list[str]] = defaultdict(list)  # keys that declare a word, by its canonical form
    for key, several in words.items():
        for word in several:
            uses[canonical_word(word)].append(key)
    repeated = {word: keys for word, keys in uses.items() if len(keys) > 1}
    if repeated and all(len(several) == 1 for several in words.values()):
        values = ", ".join(repr(word) for (word,) in words.values())
        problems.add(f"{', '.join(words)} must differ, but they are {values}.", place)
        return
    for word, keys in repeated.items():
        problems.add(f"the word {word!r} is declared more than once: {', '.join(keys)}. Keep one.", place)


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
