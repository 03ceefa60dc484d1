"""Inheritance and end of worker processes on Linux and macOS.

`windows_workers` has the same functions.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from typing import Protocol

_RETRY_SECONDS = 0.01  # until an interrupt that Python discarded is raised again
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Passed = int  # what a worker gets of what `passed` yields: a descriptor


class _Duplicate(Protocol):
    """The duplicate of a descriptor that multiprocessing sends to a child process."""

    def detach(self) -> int:
        """Return the descriptor."""


class InheritedDescriptor:
    """A descriptor that is unpickled in a worker process as the worker's own duplicate of it."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Callable[[_Duplicate], int], tuple[_Duplicate]]:
        return _detach, (DupFd(self.descriptor),)


def _detach(duplicate: _Duplicate) -> int:
    return int(duplicate.detach())


def held(lock: int) -> InheritedDescriptor:
    """Return what lets a worker hold a lock too."""
    return InheritedDescriptor(lock)


def anonymous_file(name: str) -> int:
    """Return the descriptor of a new file without a place in any folder: in memory on Linux."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())


@contextlib.contextmanager
def passed(content: bytes) -> Iterator[InheritedDescriptor]:
    """Yield what a worker gets as a descriptor of a file with this content.

    The pipe to a new process takes 64 KiB: a process that dies before it reads more would block this one.
    """
    descriptor = anonymous_file("mil_toolkit job")
    try:
        left = memoryview(content)
        while left:  # the kernel may write a part
            left = left[os.write(descriptor, left) :]
        yield InheritedDescriptor(descriptor)
    finally:
        os.close(descriptor)


def received(descriptor: Passed) -> bytes:
    """Return the content that was passed to this worker."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    return content


def end_with_parent() -> None:
    """Kill this process when its parent ends: by the kernel on Linux, else by a thread that waits for it."""
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Block signals within the block, for this thread and for the processes that it starts."""
    resource_tracker.ensure_running()  # starting it later would unblock the signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def unblock(signals: Sequence[signal.Signals]) -> None:
    """Let signals arrive that the parent has blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def resume(process: int) -> None:
    """Let a suspended process go on."""
    os.kill(process, signal.SIGCONT)


def prepare_to_stop_again() -> None:
    """Let `stop_again_soon` work."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))


def stop_again_soon() -> None:
    """Raise SIGTERM in this process a moment later."""
    signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)
