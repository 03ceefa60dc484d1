"""Worker processes, and signals that are heeded where nothing is half done."""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

from mil_toolkit.core.errors import MilError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.01  # seconds until an interrupt that was lost comes again
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextlib.contextmanager
def stops_heeded() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt within the block, each unless it is ignored.

    Where it is raised in what lets no error out, such as the callback of a weak reference, it comes again. Behind the
    block the signals end the process at once: there is nothing left to lose but time.
    """
    hook = sys.unraisablehook

    def heed(lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            hook(lost)

    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    for each in _heeded():
        signal.signal(each, _interrupt)
    sys.unraisablehook = heed
    try:
        yield
    finally:
        for each in _heeded():
            signal.signal(each, signal.SIG_DFL)
        sys.unraisablehook = hook


@contextlib.contextmanager
def stops_deferred() -> Iterator[Callable[[], None]]:
    """Hold SIGINT and SIGTERM back within the block, each unless it is ignored.

    Yields a function that raises KeyboardInterrupt if one has come; so does the end of the block. Outside the main
    thread, which alone receives signals, nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []

    def check() -> None:
        if came:
            came.clear()
            raise KeyboardInterrupt

    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in _heeded()}
    try:
        yield check
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    check()


def _heeded() -> list[signal.Signals]:
    """What stops this process: not what it was told to ignore, as a shell tells its background jobs."""
    return [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]


def start_worker(job: Callable[[], object], lock: int, environment: dict[str, str]) -> BaseProcess:
    """Start a process that runs `job`, a picklable function, and then ends.

    It holds `lock`, the descriptor of a lock file, so that whoever takes this lock knows that it has ended, and is
    killed when this process ends. SIGTERM stops it, Ctrl-C does not: that is for this process to pass on. Its exit
    code is 1 where the job failed.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads that hang
    arguments = (os.getpid(), pickle.dumps(job), environment, _Inherited(lock))
    process = context.Process(target=_work, args=arguments, daemon=True)
    resource_tracker.ensure_running()  # which lets signals in behind its start
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the worker's too, until it can heed them
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def stop_worker(process: BaseProcess) -> None:
    """Let a worker end as upon an interrupt, also one that somebody suspended, which would not listen."""
    process.terminate()
    if process.pid and process.is_alive():
        os.kill(process.pid, signal.SIGCONT)


class _Inherited:
    """A descriptor that a worker process opens with itself."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self) -> Any:
        return _detach, (DupFd(self.descriptor),)


def _detach(duplicate: Any) -> int:
    return int(duplicate.detach())


def _work(parent: int, job: bytes, environment: dict[str, str], _lock: int) -> None:
    # Before anything that takes time: the lock must not outlive the parent.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stops_heeded():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            pickle.loads(job)()
    except (MilError, KeyboardInterrupt):
        sys.exit(1)  # the parent meets the error itself, and tells it


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
