"""Atomic files (a name holds a complete file or none at all), and JSON and digests on top of them."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mil_toolkit.core.access import adopt_access
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.reading import MEBIBYTE, open_input, read_input
from mil_toolkit.core.system import BINARY, CLOSE_ON_EXEC, NO_FOLLOW, NOT_BLOCKING
from mil_toolkit.core.system_files import LockedTemporary, free_lock, fsync_folder, replace
from mil_toolkit.core.version import __version__

TEMPORARY_PREFIX = ".tmp-"
RETIRED = ".old"  # suffix of a folder that is being replaced, after the name of its successor
_TEMPORARY_NAME = re.compile(rf"\.tmp-[0-9a-f]{{16}}(-[0-9a-f]{{16}})?({re.escape(RETIRED)})?")
JSON_LIMIT = 64 * MEBIBYTE


def publish(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the complete new one.

    Missing folders are created. A file that is replaced keeps its mode and group. Raises UsageError if the
    file system refuses (a full disk, a read-only folder), and if `path` exists and is not a regular file,
    since a device or a pipe would be replaced by a file.
    """
    with report_write_errors(path):
        check_regular_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        former = path.stat() if path.exists() else None
        temporary = _locked_temporary(path.parent, 0o666 if former is None else 0o600)
        try:
            _write_all(temporary.descriptor, content)
            if former is not None:
                adopt_access(temporary.descriptor, former)
            temporary.before_rename()
            replace(temporary.path, path)
        except BaseException:
            temporary.before_rename()
            temporary.path.unlink(missing_ok=True)
            raise
        finally:
            temporary.close()
        fsync_folder(path.parent)


@contextlib.contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a UsageError that names `path`, the output being written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}. Files that were complete are kept."
        ) from None


def check_regular_file(path: Path) -> None:
    """Raise UsageError if `path` exists and is not a regular file (or a link to one)."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} exists and is not a file: it cannot be replaced by one.")


def open_for_appending(path: Path) -> int:
    """Return the descriptor of a file to whose end `os.write` adds; the file is created where it is missing.

    A last line that was cut off is ended first. Raises UsageError where the file cannot be written, and for
    links and what is not a regular file: a received folder may contain them, and they may lead anywhere.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_FOLLOW | NOT_BLOCKING | CLOSE_ON_EXEC | BINARY
    with report_write_errors(path):
        if not NO_FOLLOW and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        descriptor = os.open(path, flags, 0o666)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise UsageError(f"{path} is not a file of its own and cannot be a log. Remove it.")
            if status.st_size:
                os.lseek(descriptor, -1, os.SEEK_END)
                if os.read(descriptor, 1) != b"\n":
                    os.write(descriptor, b"\n")
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _locked_temporary(folder: Path, mode: int) -> LockedTemporary:
    while True:
        made = LockedTemporary.file(folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}", mode)
        if made is not None:
            return made


@contextlib.contextmanager
def temporary_folder(parent: Path, stem: str = "") -> Iterator[Path]:
    """Yield a new folder in `parent`, which is removed after the block and locked until then.

    stem: 16 hexadecimal digits and a dash, which the name of the folder contains
    """
    made = _locked_folder(parent, stem)
    try:
        yield made.path
    finally:
        shutil.rmtree(made.path, ignore_errors=True)
        made.close()


def _locked_folder(parent: Path, stem: str) -> LockedTemporary:
    while True:
        made = LockedTemporary.folder(parent / f"{TEMPORARY_PREFIX}{stem}{secrets.token_hex(8)}")
        if made is not None:
            return made


def remove_dead_temporaries(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`: their lock is free.

    A folder that has been moved aside for its successor is kept until the successor has its name.
    """
    with contextlib.suppress(OSError):  # there is no such folder, or it cannot be listed
        for name in filter(_TEMPORARY_NAME.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError), free_lock(folder / name) as mode:
                _remove(folder / name, mode)


def _remove(path: Path, mode: int) -> None:
    other = path.with_suffix("") if path.suffix else path.with_suffix(RETIRED)
    if stat.S_ISREG(mode):
        path.unlink()
    elif stat.S_ISDIR(mode) and not other.exists():
        shutil.rmtree(path, ignore_errors=True)


def canonical_json(value: object) -> bytes:
    """Return the canonical JSON of `value`, from which digests are computed: sorted keys, no spaces, no NaN.

    >>> canonical_json({"b": [1, 0.5], "a": None})
    b'{"a":null,"b":[1,0.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def publish_json(path: Path, value: object) -> None:
    """Publish `value` as indented JSON; raises ValueError for NaN and infinity, which JSON does not have."""
    publish(path, readable_json(value))


def readable_json(value: object) -> bytes:
    """Return the content of the file that `publish_json` writes."""
    try:
        return _indented_json(value, ensure_ascii=False)
    except UnicodeEncodeError:  # the name of a file that is not valid UTF-8
        return _indented_json(value, ensure_ascii=True)


def _indented_json(value: object, ensure_ascii: bool) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=ensure_ascii) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file of any content.

    Raises DataError that names the file if it is missing, is not JSON or holds a number that is not finite,
    and otherwise as `open_input` does.
    """
    try:
        return parse_json(read_input(path, JSON_LIMIT))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None


def parse_json(content: bytes | str) -> Any:
    """Return the value of a JSON text; raises ValueError for all else, such as NaN, infinity and 1e999."""
    try:
        return json.loads(content, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a finite number")
    return value


def check_schema(path: Path, schema: object, supported: int) -> None:
    """Raise DataError if `schema`, the schema number stored in the file `path`, is not the supported one."""
    if isinstance(schema, int) and schema > supported:
        raise DataError(
            f"{path} has schema {schema}, written by a newer mil_toolkit; this version ({__version__}) reads"
            f" schema {supported}. Upgrade: pip install --upgrade mil_toolkit."
        )
    if schema != supported:
        raise DataError(f"{path} has schema {schema}; this version ({__version__}) reads schema {supported}.")


def digest(content: bytes) -> str:
    """Return the SHA-256 of `content` in hexadecimal.

    >>> digest(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(content).hexdigest()


def digest_json(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value` in hexadecimal."""
    return digest(canonical_json(value))


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with open_input(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
