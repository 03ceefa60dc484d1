# Floor 0.5: the file system: atomic publishing, digests, JSON.
"""Files that are either complete under their name or not there at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mil_toolkit import __version__
from mil_toolkit.errors import BusyError, DataError, UsageError
from mil_toolkit.wording import some

TEMPORARY_PREFIX = ".tmp-"
_LETTING_GO = 1.0  # seconds that a killed process may take to close its files
LOCK, CLAIM = ".lock", ".claim"  # of a run; of a moment in which others wait

Foreign = Callable[[Path], Sequence[str]]


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
        _check_file(path)
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


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError that names every output which cannot be published, is another one or one of the inputs.

    outputs: files, by the options that name them; inputs: files that are read for them
    """
    problems = [
        f"{option}: {path} is read by this command, and would be lost."
        for option, path in outputs.items()
        if any(_same(path, each) for each in inputs)
    ]
    problems += [
        f"{one} and {other} both name {outputs[one]}."
        for one, other in combinations(outputs, 2)
        if _same(outputs[one], outputs[other])
    ]
    for option, path in outputs.items():
        try:
            with written(path):
                _check_file(path)
                _check_place(path.resolve())
        except UsageError as error:
            problems.append(f"{option}: {error}")
    if problems:
        raise UsageError("\n".join([*problems, "Nothing was written. Name other files."]))


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _check_file(path: Path) -> None:
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


@contextlib.contextmanager
def exclusive(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[int]:
    """Hold a lock of a folder, made where there is none; raises BusyError where another process holds it.

    name: of the lock's file; wait: until the other process has let go. Yields the lock's descriptor: it is held as
    long as any process has it open.
    """
    with _lock_file(folder / name, os.O_RDWR) as descriptor:
        _lock(descriptor, folder, fcntl.LOCK_EX, wait)
        yield descriptor


@contextlib.contextmanager
def shared(folder: Path, wait: bool = True) -> Iterator[int]:
    """Keep others from holding the lock of a folder alone. Reading may be all one may.

    While one does, waits, or raises BusyError where told not to.
    """
    with _lock_file(folder / LOCK, os.O_RDONLY) as descriptor:
        _lock(descriptor, folder, fcntl.LOCK_SH, wait)
        yield descriptor


def _lock(descriptor: int, folder: Path, kind: int, wait: bool) -> None:
    deadline = time.monotonic() + _LETTING_GO
    try:
        while not _taken(descriptor, kind if wait else kind | fcntl.LOCK_NB):
            if time.monotonic() > deadline:
                raise BusyError(f"{folder} is in use by another process. Try again when it has ended.")
            time.sleep(0.02)
    except OSError as error:  # network file systems without locks
        raise UsageError(f"{folder} cannot be locked: {error.strerror}. Use another file system.") from None


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _lock_file(path: Path, access: int) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | access | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}.") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check_replaceable(folder: Path, kind: str, foreign: Foreign) -> None:
    """Raise UsageError where `folder` cannot be made, or is there and holds what nobody asked to lose.

    kind: what alone may be replaced, in words; foreign: names in an existing folder that are no part of that
    """
    advice = f"It would be replaced by {kind}: name another folder."
    with written(folder):
        _check_place(folder.resolve())
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise UsageError(f"{folder} is there, and is no folder. {advice}")
        if folder.samefile(Path.cwd()):
            raise UsageError(f"{folder} is the working folder. {advice}")
        if names := foreign(folder):
            raise UsageError(
                f"{folder} holds what is not of {kind}: {some(list(map(shown, names)))}. {advice}"
            )


def _check_place(path: Path) -> None:
    """Raise OSError where nothing can be made under the name `path`: tried, since permissions do not say all."""
    place = next(each for each in path.parents if os.path.lexists(each))
    with tempfile.TemporaryFile(dir=place):
        pass


@contextlib.contextmanager
def published_folder(folder: Path, kind: str, foreign: Foreign) -> Iterator[Path]:
    """A new folder to fill, which takes the name `folder` when all of it is there; an older one is replaced.

    Raises what `check_replaceable` does, before and after it was filled.
    """
    check_replaceable(folder, kind, foreign)
    folder = folder.resolve()  # what a link names, not the link
    with written(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        building.mkdir()
    retired = building.with_suffix(".old")
    try:
        yield building
        check_replaceable(folder, kind, foreign)
        with written(folder):
            if folder.exists():
                folder.rename(retired)
            building.rename(folder)
            fsync_folder(folder.parent)
    finally:
        if retired.exists() and not folder.exists():  # stopped between the two
            retired.rename(folder)
        for each in (building, retired):
            shutil.rmtree(each, ignore_errors=True)


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
