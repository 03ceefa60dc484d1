"""Inheritance and end of worker processes on Windows; `posix_workers` has the same functions."""

import contextlib
import multiprocessing
import os
import signal
import threading
from _thread import interrupt_main
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import NoReturn

_RETRY_SECONDS = 0.01  # until an interrupt that Python discarded is raised again

Passed = bytes  # what a worker gets of what `passed` yields: the content itself


class InheritedDescriptor:
    """Nothing on Windows, where processes inherit no descriptors."""

    def __init__(self, descriptor: int):
        raise NotImplementedError("Windows processes inherit no descriptors")


def held(lock: int) -> None:
    """Return nothing: a worker cannot hold the lock of another process."""


def anonymous_file(name: str) -> NoReturn:
    """Raise NotImplementedError: other processes could not open the file."""
    raise NotImplementedError(f"Windows has no file in memory that processes share: {name}")


@contextlib.contextmanager
def passed(content: bytes) -> Iterator[bytes]:
    """Yield the content, which is sent to the worker: a pipe whose reader has died does not block here."""
    yield content


def received(content: Passed) -> bytes:
    """Return the content that was passed to this worker."""
    return content


def end_with_parent() -> None:
    """Let a thread end this process when its parent ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Do nothing: a process gets no signals of another one."""
    yield


def unblock(signals: Sequence[signal.Signals]) -> None:
    """Do nothing: nothing was blocked."""


def resume(process: int) -> None:
    """Do nothing: a process that was terminated has ended."""


def prepare_to_stop_again() -> None:
    """Do nothing: `stop_again_soon` needs no preparation."""


def stop_again_soon() -> None:
    """Raise SIGTERM in this process a moment later."""
    timer = threading.Timer(_RETRY_SECONDS, interrupt_main, (signal.SIGTERM,))
    timer.daemon = True
    timer.start()
