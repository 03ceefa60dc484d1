"""Locks of folders, held through open file descriptors.

A lock lasts until every process that inherited its descriptor has closed it or has ended, however it
ended. On Windows, no process inherits it.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mil_toolkit.core.errors import BusyError, UsageError
from mil_toolkit.core.system import BINARY, CLOSE_ON_EXEC, NO_FOLLOW, NOT_BLOCKING
from mil_toolkit.core.system_files import acquire
from mil_toolkit.core.text import printable

LOCK = ".lock"  # held for the whole of a run
CLAIM = ".claim"  # held for a moment, while other processes wait
_RELEASE_SECONDS = 1.0  # a killed process may take this long to close its files
_POLL_SECONDS = 0.02


@contextlib.contextmanager
def exclusive(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[int]:
    """Hold an exclusive lock of `folder`, which is created if it does not exist.

    name: of the lock's file in `folder`; wait: wait until no other process holds the lock

    Yields the lock's descriptor; the lock is held as long as any process has it open. Raises BusyError if
    another process holds the lock and `wait` is false, and UsageError if the lock's file cannot be created or
    locked.
    """
    with _open_lock_file(folder / name, os.O_RDWR) as descriptor:
        _acquire(descriptor, folder, False, wait)
        yield descriptor


@contextlib.contextmanager
def shared(folder: Path, wait: bool = True) -> Iterator[int]:
    """Hold a shared lock of `folder`: others may share it, but none can take the exclusive one.

    Read permission on an existing lock file suffices. Yields the lock's descriptor. Raises BusyError if
    another process holds the exclusive lock and `wait` is false, and UsageError as `exclusive` does.
    """
    with _open_lock_file(folder / LOCK, os.O_RDONLY) as descriptor:
        _acquire(descriptor, folder, True, wait)
        yield descriptor


def _acquire(descriptor: int, folder: Path, share: bool, wait: bool) -> None:
    deadline, name = time.monotonic() + _RELEASE_SECONDS, printable(folder)
    try:
        while not acquire(descriptor, share, wait):
            if time.monotonic() > deadline:
                raise BusyError(f"{name} is in use by another process. Try again when it has ended.")
            time.sleep(_POLL_SECONDS)
    except OSError as error:  # some network file systems have no locks
        raise UsageError(f"{name} cannot be locked: {error.strerror}. Use another file system.") from None


@contextlib.contextmanager
def _open_lock_file(path: Path, access: int) -> Iterator[int]:
    """Open a lock file; a link is not followed, since a received folder may contain one to anywhere."""
    flags = os.O_CREAT | NO_FOLLOW | NOT_BLOCKING | CLOSE_ON_EXEC | BINARY  # the opening of a pipe may wait
    try:
        if not NO_FOLLOW and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags | access, 0o666)
    except OSError as error:
        raise UsageError(f"{printable(path)} cannot be written: {error.strerror}.") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(f"{printable(path)} is not a regular file and cannot be a lock. Remove it.")
        yield descriptor
    finally:
        os.close(descriptor)
