"""Files that are either complete under their name or not there at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.version import __version__

TEMPORARY_PREFIX = ".tmp-"


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, content: bytes) -> None:
    """Write `content` under `path` atomically: a reader sees the old file or the whole new one.

    Raises UsageError where the disk is full or the folder cannot be written, and where `path` is no file: a device
    would become one.
    """
    with written(path):
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _locked_temporary(path.parent)
        try:
            _write_out(descriptor, content)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        fsync_folder(path.parent)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Make what the file system refuses an error that names what was to be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}. What was complete stays."
        ) from None


def check_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is there, and is no file: it cannot be replaced by one.")


def _write_out(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _locked_temporary(folder: Path) -> tuple[int, Path]:
    """A new file in `folder` under a lock that lasts as long as this process, as the sign of its being alive."""
    while True:
        path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # a cleaner came between the two calls, held it for dead and removed it


def remove_dead_temporaries(folder: Path) -> None:
    """Remove what killed writers left in `folder`: every temporary file whose lock can be taken."""
    passed_over = (FileNotFoundError, BlockingIOError, IsADirectoryError)
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(*passed_over), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def check_place(path: Path) -> None:
    """Raise OSError where nothing can be made under the name `path`: tried, since permissions do not say all."""
    place = next(each for each in path.parents if os.path.lexists(each))
    with tempfile.TemporaryFile(dir=place):
        pass


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, no NaN; what digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def publish_json(path: Path, value: Any) -> None:
    """Publish `value` as readable JSON; NaN and infinity are refused, since JSON has none."""
    publish(path, readable_json(value))


def readable_json(value: Any) -> bytes:
    """What `publish_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DataError that names the file where it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None


def check_schema(path: Path, found: object, known: int) -> None:
    """Raise DataError where `found`, the schema that a file says it is of, is not the one that this version reads."""
    if isinstance(found, int) and found > known:
        raise DataError(
            f"{path} is of schema {found}, of a newer mil_toolkit; this version ({__version__}) reads schema {known}."
            " Upgrade: pip install --upgrade mil_toolkit."
        )
    if found != known:
        raise DataError(f"{path} is of schema {found}; this version ({__version__}) reads schema {known}.")


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return digest(canonical_json(value))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(path: Path | str) -> str:
    """A path as one readable line, whatever bytes its name holds."""
    text = str(path)
    return text if text.isprintable() else repr(text)
