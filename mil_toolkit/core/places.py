"""`states_digest`: a digest that tells whether files have changed, without reading most of them."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.file_state import SETTLED_NS, FileState
from mil_toolkit.core.files import TEMPORARY_PREFIX, canonical_json, digest_file

_FEW = 1000


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
    hashed, last = hashlib.sha256(), _LastWritten()
    for path, state in (entry for place in places for entry in _states(place)):
        hashed.update(canonical_json([path, state]))
        if state is not None:
            last.add(path, state.ctime_ns)
    hashed.update(canonical_json([[path, _content(path)] for path in last.paths()]))
    return hashed.hexdigest()


class _LastWritten:
    """The files of many that were written within SETTLED_NS before the last one; few are kept at a time."""

    def __init__(self) -> None:
        self._written: list[tuple[str, int]] = []
        self._newest, self._most = 0, _FEW

    def add(self, path: str, time_ns: int) -> None:
        """Add a file with the time at which it was written."""
        self._newest = max(self._newest, time_ns)
        self._written.append((path, time_ns))
        if len(self._written) > self._most:
            self._drop_older()
            self._most = max(_FEW, 2 * len(self._written))

    def paths(self) -> list[str]:
        """Return the paths in the order in which they came."""
        self._drop_older()
        return [path for path, _ in self._written]

    def _drop_older(self) -> None:
        self._written = [entry for entry in self._written if entry[1] >= self._newest - SETTLED_NS]


def _content(path: str) -> str | None:
    """Return the digest of a file; None of a pipe, and of a file that was removed just now."""
    with contextlib.suppress(OSError, MilError):
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
