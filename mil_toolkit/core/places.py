"""`states_digest`: a digest that tells whether files have changed, without reading most of them."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.file_state import SETTLED_NS, FileState
from mil_toolkit.core.files import TEMPORARY_PREFIX, digest_file, digest_json


@dataclass(frozen=True)
class Place:
    """A file, or a folder with all files below it whose names `counts` accepts."""

    path: Path
    counts: Callable[[str], bool] = bool


def states_digest(places: Iterable[Place]) -> str:
    """Return a digest that changes whenever a file at these places is written, replaced, added or removed.

    Take it before the files are read: then a change while they are read changes the digest, too.

    A file counts by its state. A second change within the resolution of the clock may leave the state as it
    was. A file that was written so shortly before the digest is taken is among those written last, and these
    count by their content as well. New and vanished folders count, temporary ones do not.
    """
    states = [entry for place in places for entry in _states(place)]
    newest = max((state.ctime_ns for _, state in states if state is not None), default=0)
    return digest_json([[path, state, _recent_content(path, state, newest)] for path, state in states])


def _recent_content(path: str, state: FileState | None, newest: int) -> str | None:
    """Return the digest of a file that was written shortly before the newest one; None of all others."""
    if state is not None and state.ctime_ns >= newest - SETTLED_NS:
        with contextlib.suppress(OSError, MilError):  # a pipe, or a file that was removed just now
            return digest_file(Path(path))
    return None


def _states(place: Place) -> Iterator[tuple[str, FileState | None]]:
    """Yield every folder, with a slash at its end, and every file that counts with its state.

    The state is None for folders and for what cannot be reached.
    """
    pending, entered = [os.fspath(place.path)], set[tuple[int, int]]()
    while pending:
        path = pending.pop()
        status = _status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            yield path, None if status is None else FileState.of(status)
        elif (status.st_dev, status.st_ino) not in entered:  # so that circles of links end
            entered.add((status.st_dev, status.st_ino))
            inside = _entries(path, place.counts)
            yield f"{path}/" if inside is not None else f"{path}/?", None
            pending += inside or ()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # the latter for a null byte
        return None


def _entries(folder: str, counts: Callable[[str], bool]) -> list[str] | None:
    """Return the paths of what counts in a folder, by name; None where it may not be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if _is_wanted(entry, counts))
    except OSError:
        return None


def _is_wanted(entry: os.DirEntry[str], counts: Callable[[str], bool]) -> bool:
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link whose target may not be reached
        is_folder = False
    return not entry.name.startswith(TEMPORARY_PREFIX) if is_folder else counts(entry.name)
