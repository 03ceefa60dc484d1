"""The files of a bundle: their names, and reading those that anybody may have made."""

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from mil_toolkit.bundle.checks import config_problems
from mil_toolkit.bundle.records import FINGERPRINTS, SCHEMA, BundleConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import TEMPORARY_PREFIX, check_schema, digest, digest_json, parse_json
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.records import Json, Record, from_json
from mil_toolkit.core.text import printable, some
from mil_toolkit.outcomes.kinds import decode_decision

TENSORS, CONFIG, SCORES, CARD = "model.safetensors", "config.json", "scores.json", "README.md"
BACKBONE = "backbone.safetensors"  # only where the backbone was fine-tuned
HEAD_ONNX, WHOLE_ONNX = "head.onnx", "whole.onnx"  # for other programs
FILES = frozenset({TENSORS, CONFIG, SCORES, CARD, BACKBONE, HEAD_ONNX, WHOLE_ONNX})
LIMITS = {  # in bytes; config.json holds a key for each training image
    TENSORS: 1024 * MEBIBYTE,
    CONFIG: 256 * MEBIBYTE,
    SCORES: 16 * MEBIBYTE,
    BACKBONE: 16 * 1024 * MEBIBYTE,
}
_SEALED = frozenset({TENSORS, SCORES})  # files with a digest in config.json, besides BACKBONE
_LONGEST = 500  # characters of a reason
_ADVICE = "mil-fit writes a bundle, by default to studies/NAME/model."


def foreign_to_bundle(folder: Path) -> list[str]:
    """Return the names in a folder that do not belong to a bundle; all names if the folder is not one."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}
    return sorted(names - FILES if _describes_bundle(folder / CONFIG) else names)


def _describes_bundle(path: Path) -> bool:
    try:
        config = parse_content(path, _read_named(path))
    except DataError:
        return False
    return isinstance(config, dict) and {"schema", "digest", "head", "about"} <= config.keys()


def read_config(folder: Path) -> BundleConfig:
    """Read config.json; raises DataError where it is missing, foreign, of a newer schema or damaged."""
    path = folder / CONFIG
    config = _read_sealed(path)
    record = as_record(config, BundleConfig, path)
    problems = [*_digest_problems(record.digests), *config_problems(record)]
    if problems:
        raise DataError([str(faulty(path, problem)) for problem in problems])
    return record


def _read_sealed(path: Path) -> dict[str, Json]:
    """Return the content of config.json without its digest, which was compared."""
    config = parse_content(path, _read_named(path))
    if not isinstance(config, dict) or not {"schema", "digest"} <= config.keys():
        raise DataError(f"{printable(path)} is not the {CONFIG} of a bundle. {_ADVICE}")
    schema = config["schema"]
    if type(schema) is not int:
        raise faulty(path, f"schema must be a whole number, not {schema!r}.")
    if schema != FINGERPRINTS:
        check_schema(path, schema, SCHEMA)
    if config.pop("digest") != digest_json(config):
        raise DataError(f"{printable(path)} is damaged or was edited: its content does not match its digest.")
    return config


def _read_named(path: Path) -> bytes:
    if not os.path.isfile(path.parent):  # in a file, there is none
        with contextlib.suppress(FileNotFoundError):
            return read_input(path, LIMITS[path.name])
    raise DataError(f"{printable(path.parent)} is not a bundle: it has no {path.name}. {_ADVICE}")


def parse_content(path: Path, content: bytes) -> Json:
    """Return the value of a JSON file's content; raises DataError that names the file.

    Nothing is accepted that could not be written again: values that are nested too deeply, or text that is
    not Unicode.
    """
    try:
        value: Json = parse_json(content)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise faulty(path, "its text is not Unicode.") from None
    except RecursionError:
        raise faulty(path, "its values are nested too deeply.") from None
    except ValueError as error:
        raise faulty(path, f"it cannot be read as JSON: {error}.") from None
    return value


def faulty(path: Path, reason: str) -> DataError:
    """Return the error for the content of a file; of a long reason the middle is left out."""
    half = _LONGEST // 2
    shown = reason if len(reason) <= _LONGEST else f"{reason[:half]} ... {reason[-half:]}"
    return DataError(f"{printable(path)}: {printable(shown)}")


def _digest_problems(names: Collection[str]) -> list[str]:
    """Return why these are not the files of a bundle: no other name is ever opened."""
    odd = sorted(set(names) - _SEALED - {BACKBONE})
    problems = [f"digests lacks {name}." for name in sorted(_SEALED - set(names))]
    if odd:
        problems.append(
            f"digests names {some([printable(name[:80]) for name in odd])}, not a bundle's files."
        )
    return problems


def read_contents(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    """Return the content of the other files; raises DataError that lists the missing and damaged ones."""
    contents: dict[str, bytes] = {}
    problems: list[str] = []
    for name, expected in digests.items():
        path = folder / name
        try:
            contents[name] = read_input(path, LIMITS[name])
        except FileNotFoundError as error:
            problems.append(f"{printable(path)} cannot be read: {error.strerror}.")
        except DataError as error:
            problems += error.problems
        else:
            if digest(contents[name]) != expected:
                problems.append(
                    f"{printable(path)} is damaged or foreign: it does not match the digest in {CONFIG}."
                )
    if problems:
        raise DataError([*problems, "Copy the whole folder again, or fit the model again."])
    return contents


def as_record(value: Json, kind: type[Record], path: Path) -> Record:
    """Return parsed JSON as a record; raises DataError also where StudyConfig refuses an option's value."""
    try:
        return from_json(value, kind, path, decode_decision)
    except (DataError, UsageError) as error:
        reason = str(error).removeprefix(f"{path} does not have the expected content: ")
        raise faulty(path, f"it does not have the expected content: {reason}") from None
