"""Locks and durable names of files on Linux and macOS; `windows_files` has the same functions."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from mil_toolkit.core.system import CLOSE_ON_EXEC, NO_FOLLOW, NOT_BLOCKING


def acquire(descriptor: int, shared: bool, wait: bool) -> bool:
    """Lock an open file, and return whether the lock is held: not if it would have to wait and may not.

    The lock lasts until every process that inherited the descriptor has closed it or has ended. Raises
    OSError where the file system has no locks.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation if wait else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class LockedTemporary:
    """A new file or folder that is locked until it is closed, which shows that this process is still alive.

    descriptor: of the file, for writing, or of the folder
    """

    def __init__(self, path: Path, descriptor: int):
        self.path, self.descriptor = path, descriptor

    @classmethod
    def file(cls, path: Path, mode: int) -> Self | None:
        """Create and lock a file; None if `remove_dead_temporaries` deleted it before it was locked."""
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | CLOSE_ON_EXEC, mode)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return cls(path, descriptor)
        os.close(descriptor)
        return None

    @classmethod
    def folder(cls, path: Path) -> Self | None:
        """Create and lock a folder; None as for `file`."""
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | CLOSE_ON_EXEC)
        with contextlib.suppress(OSError):  # where folders have no locks, nobody takes this one for dead
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return cls(path, descriptor)
        os.close(descriptor)
        return None

    def before_rename(self) -> None:
        """Do nothing: an open file may be renamed."""

    def close(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)


@contextlib.contextmanager
def free_lock(path: Path) -> Iterator[int]:
    """Hold the lock of a temporary file or folder; yields its mode.

    Raises OSError if another process holds the lock.
    """
    descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW | NOT_BLOCKING | CLOSE_ON_EXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make the renames inside `folder` durable: they then survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Give `source` the name `target`, which may be that of an existing file."""
    os.replace(source, target)


def rename(source: Path, target: Path) -> None:
    """Give the folder `source` the name `target`, which no other folder has."""
    source.rename(target)
