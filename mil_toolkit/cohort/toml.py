"""TOML: reading a file, checking the keys and types of a section, writing a string."""

import difflib
import itertools
import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import date, datetime, time
from pathlib import Path
from types import NoneType
from typing import TypeAlias, get_args, get_origin, get_type_hints

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.text import SOME, printable, some

TomlValue: TypeAlias = str | int | float | date | datetime | time | list["TomlValue"] | dict[str, "TomlValue"]
TomlTable: TypeAlias = dict[str, TomlValue]
Keys: TypeAlias = Mapping[str, tuple[type, ...]]  # the keys of a section, and the types that each may have

INTEGER_BITS = 64  # of a whole number in TOML, with its sign
TOML_LIMIT = 2 * MEBIBYTE
LONGEST = 200  # characters of a word by which a suggestion compares it
COMPARED, KNOWN = 1000, 50  # words among which a suggestion looks for the nearest, and that it lists
TYPE_NAMES: dict[type, str] = {
    str: "text in quotes",
    int: "a whole number",
    bool: "true or false",
    float: "a number with a decimal point",
    list: "a non-empty list of texts in quotes",
    date: "a date without quotes, such as 2020-12-31",
    dict: "a section",
}


def read_toml(path: Path) -> TomlTable:
    """Read a TOML file; a byte order mark is skipped. Raises DataError if it cannot be read or is invalid."""
    try:
        return tomllib.loads(read_input(path, TOML_LIMIT).decode("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{printable(path)} cannot be read: No such file or directory.") from None
    except ValueError as error:
        raise DataError(f"{printable(path)} is not valid TOML: {printable(str(error))}.") from None
    except RecursionError:
        raise DataError(f"{printable(path)} is not valid TOML: its values are nested too deeply.") from None


def keys_of(section: type) -> dict[str, tuple[type, ...]]:
    """Return the keys of a section and the types of their TOML values, from the fields of its dataclass.

    A field of type `X | None` is an optional key of type X; a tuple is a list in TOML. A section as the value
    of a key that may also be a list holds values of the other types of the key.
    """
    hints = get_type_hints(section)
    return {field.name: _toml_types(hints[field.name]) for field in fields(section)}


def _toml_types(hint: type) -> tuple[type, ...]:
    options = [hint] if get_origin(hint) is tuple else get_args(hint) or [hint]
    types = [list if get_origin(option) is tuple else get_origin(option) or option for option in options]
    return tuple(type_ for type_ in types if type_ is not NoneType)


def subsection(section: TomlTable, name: str) -> TomlTable:
    """Return the section of this name within a section; empty if there is none."""
    value = section.get(name, {})
    return value if isinstance(value, dict) else {}


def checked_values(place: str, given: TomlTable, known: Keys, problems: Problems) -> TomlTable:
    """Return the known keys of a section whose values have the right type, and report the others."""
    valid: TomlTable = {}
    unknown = [key for key in given if key not in known]
    if len(unknown) > SOME:
        keys = some(list(map(repr, unknown)))
        problems.add(f"unknown keys {keys}. Known: {', '.join(map(repr, known))}.", place)
    for key, value in given.items():
        if key not in known:
            if len(unknown) <= SOME:
                problems.add(f"unknown key {key!r}.{suggestion(key, known)}", place)
        elif not _has_type(value, known[key]):
            problems.add(f"{key} must be {_type_words(known[key])}, not {shown(value)}.", place)
        else:
            valid[key] = value
    return valid


def shown(value: TomlValue) -> str:
    """Return a value as messages show it."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a number of many digits, or deeply nested lists
        return "a value that is too long to show"


def _has_type(value: TomlValue, types: tuple[type, ...]) -> bool:
    # The exact type: in Python, true is also an integer and a datetime is also a date.
    if type(value) is list:
        return list in types and bool(value) and all(_has_type(item, _item_types(types)) for item in value)
    if type(value) is dict and list in types:
        single = tuple(type_ for type_ in types if type_ is not dict)
        return dict in types and bool(value) and all(_has_type(item, single) for item in value.values())
    return type(value) in types and not (isinstance(value, int) and value.bit_length() >= INTEGER_BITS)


def _item_types(types: tuple[type, ...]) -> tuple[type, ...]:
    """Return the types of a list's items: those that the key may have by itself, by default text."""
    return tuple(type_ for type_ in types if type_ not in (list, dict)) or (str,)


def _type_words(types: tuple[type, ...]) -> str:
    if list in types and len(types) > 1:
        section = ", or a section with one or several of these for each name" if dict in types else ""
        return f"{_type_words(_item_types(types))}, or a non-empty list of these{section}"
    return " or ".join(TYPE_NAMES[type_] for type_ in types)


def suggestion(word: str, known: Collection[str]) -> str:
    """Return a sentence that names the known word nearest to `word`, or the known words if none is near."""
    nearest = difflib.get_close_matches(word[:LONGEST], itertools.islice(known, COMPARED), n=1)
    if nearest:
        return f" Did you mean {nearest[0]!r}?"
    words = ", ".join(map(repr, itertools.islice(known, KNOWN)))
    return f" Known: {words}{f' and {len(known) - KNOWN:,} more' if len(known) > KNOWN else ''}."


def toml_string(text: str) -> str:
    """Return a TOML basic string. JSON has the same escapes, but leaves the DEL character unescaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
