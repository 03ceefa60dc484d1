"""Locks of folders, held by open descriptors: a lock ends with the last process that has it open."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mil_toolkit.core.errors import BusyError, UsageError

_LETTING_GO = 1.0  # seconds that a killed process may take to close its files
LOCK, CLAIM = ".lock", ".claim"  # of a run; of a moment in which others wait


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
