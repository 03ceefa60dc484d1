"""Locks and names of files on Windows; `posix_files` has the same functions.

Windows locks ranges of bytes, which other processes then cannot read either. Therefore locks are taken far
beyond the end of any content. They belong to one process: a child does not inherit them.
"""

import contextlib
import errno
import msvcrt
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from mil_toolkit.core.system import BINARY, DELETED_ON_CLOSE

_START = 2**30  # of the locked bytes; msvcrt counts in 32 bits
_SHARES = 64  # processes that can share a lock: each of them locks one byte, and an exclusive lock all bytes
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 2.0  # until a reader, or a virus scanner, should have closed a file
_BUSY = (errno.EACCES, errno.EDEADLK)


def acquire(descriptor: int, shared: bool, wait: bool) -> bool:
    """Lock an open file, and return whether the lock is held: not if it would have to wait and may not.

    The lock lasts until this process has closed the descriptor or has ended. Raises OSError where the file
    system has no locks.
    """
    ranges = [(place, 1) for place in range(_SHARES)] if shared else [(0, _SHARES)]
    while not any(_lock(descriptor, first, count) for first, count in ranges):
        if not wait:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _lock(descriptor: int, first: int, count: int) -> bool:
    os.lseek(descriptor, _START + first, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, count)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return False
    return True


class LockedTemporary:
    """A new file or folder that is locked until it is closed, which shows that this process is still alive.

    A folder cannot be opened, and neither a file nor a folder that holds an open file can be renamed.
    Therefore the lock is that of a file beside it, which the system deletes even if the process is killed.

    descriptor: of the file, for writing; -1 for a folder
    """

    def __init__(self, path: Path):
        self.path, self.descriptor = path, -1
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | BINARY | DELETED_ON_CLOSE
        self._lock = os.open(_lock_of(path), flags)
        acquire(self._lock, shared=False, wait=True)

    @classmethod
    def file(cls, path: Path, mode: int) -> Self | None:
        """Create and lock a file."""
        made = cls(path)
        try:
            made.descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY, mode)
        except OSError:
            made.close()
            raise
        return made

    @classmethod
    def folder(cls, path: Path) -> Self | None:
        """Create and lock a folder."""
        made = cls(path)
        try:
            path.mkdir()
        except OSError:
            made.close()
            raise
        return made

    def before_rename(self) -> None:
        """Close the file, which is still locked."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """Release the lock."""
        self.before_rename()
        os.close(self._lock)
        with contextlib.suppress(OSError):
            _lock_of(self.path).unlink(missing_ok=True)


@contextlib.contextmanager
def free_lock(path: Path) -> Iterator[int]:
    """Hold the lock of a temporary file or folder; yields its mode.

    Raises OSError if another process holds the lock.
    """
    mode = path.lstat().st_mode
    try:
        descriptor = os.open(_lock_of(path), os.O_RDWR | BINARY)
    except FileNotFoundError:  # its process has ended
        yield mode
        return
    try:
        if not acquire(descriptor, shared=False, wait=False):
            raise BlockingIOError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        yield mode
    finally:
        os.close(descriptor)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def fsync_folder(folder: Path) -> None:
    """Do nothing: Windows writes names without being asked, and opens no folders."""


def replace(source: Path, target: Path) -> None:
    """Give `source` the name `target`, which may be that of an existing file; wait while that is open."""
    _once_closed(lambda: os.replace(source, target))


def rename(source: Path, target: Path) -> None:
    """Give a folder a name that no other folder has; wait while a file in it is open."""
    _once_closed(lambda: os.rename(source, target))


def _once_closed(move: Callable[[], None]) -> None:
    """Call a function again while it is refused, for some seconds: Windows moves nothing that is open."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            move()
            return
        except PermissionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
