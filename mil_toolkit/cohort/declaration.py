"""The declaration of a cohort: reading and checking cohort.toml."""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from mil_toolkit.cohort.kinds import KINDS, MetadataColumn
from mil_toolkit.cohort.table import SEPARATORS, canonical_word
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import shown

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


# The declaration: what cohort.toml says.


@dataclass(frozen=True)
class Declaration:
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


def read_declaration(path: Path, images: bool, problems: list[str]) -> Declaration:
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
        f'{path} [splits]: stratify names {name!r}, which is neither "label" nor a metadata name.{suggestion(name, known)}'
        for name in stratify
        if name not in known
    ]
    if "table" not in cohort or "id" not in cohort:
        raise DataError(problems)
    return Declaration(path, cohort, columns, stratify)


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
            problems.append(f"{where}: unknown key {key!r}.{suggestion(key, known)}")
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


def suggestion(word: str, known: Collection[str]) -> str:
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
    if len({canonical_word(word) for word in words.values()}) < len(words):
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
        yield f"unknown kind {valid['kind']!r}.{suggestion(valid['kind'], KINDS)}"
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
