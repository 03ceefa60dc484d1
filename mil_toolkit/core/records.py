"""Records: JSON files whose content has a type, with one reader and one writer for all of them.

A record is a frozen dataclass. Its fields are the keys of the JSON object, in this order; fields with a
default may be absent from files of older versions, and keys that no field names are ignored.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import publish_json, read_json

Record = TypeVar("Record")
Decode = Callable[[type, object], object]
_ABSENT = "absent if None"
ABSENT_IF_NONE = {_ABSENT: True}
"""The metadata of a field that the JSON object lacks where the value is None."""
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def from_json(value: object, kind: type[Record], source: Path, decode: Decode | None = None) -> Record:
    """Return parsed JSON as a record (or a list of records) of the given type.

    decode: returns the values of fields whose type is a protocol, from that type and parsed JSON
    Raises DataError that names the source and the first field that is missing or has another type.
    """
    try:
        return msgspec.convert(value, kind, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise DataError(f"{source} does not have the expected content: {error}.") from None


def to_json(record: Any) -> Json:
    """Return a record, or a list of records, as the JSON value that `from_json` reads."""
    if isinstance(record, list):
        return [to_json(item) for item in record]
    absent = [
        each.name
        for each in fields(record)
        if _ABSENT in each.metadata and getattr(record, each.name) is None
    ]
    parsed: dict[str, Json] = json.loads(json.dumps(asdict(record)))
    return {name: value for name, value in parsed.items() if name not in absent}


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a JSON file as a record; raises DataError where it is missing, broken or has other content."""
    return from_json(read_json(path), kind, path)


def read_record_if_any(path: Path, kind: type[Record]) -> Record | None:
    """Read a record as `read_record` does; return None where the file does not exist."""
    return read_record(path, kind) if path.exists() else None


def publish_record(path: Path, record: Any) -> None:
    """Publish a record, or a list of records, as readable JSON; NaN and infinity are refused."""
    publish_json(path, to_json(record))
