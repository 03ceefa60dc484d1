"""Worker processes, and signals that stop a process only where no work is left half done."""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Protocol

from mil_toolkit.core.errors import MilError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RETRY_SECONDS = 0.01  # until an interrupt that Python discarded is raised again
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextlib.contextmanager
def raise_on_stop_signals() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt within the block, except signals that are ignored.

    Python discards an exception that is raised where none can propagate, such as in a destructor or in the
    callback of a weak reference; a KeyboardInterrupt discarded in this way is raised again a moment later.
    After the block, both signals end the process at once, since nothing is left to clean up.
    """
    default_hook = sys.unraisablehook

    def raise_again(discarded: "sys.UnraisableHookArgs") -> None:
        if isinstance(discarded.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)
        else:
            default_hook(discarded)

    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    for number in _stop_signals():
        signal.signal(number, _interrupt)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        for number in _stop_signals():
            signal.signal(number, signal.SIG_DFL)
        sys.unraisablehook = default_hook


@contextlib.contextmanager
def defer_stop_signals() -> Iterator[Callable[[], None]]:
    """Defer SIGINT and SIGTERM within the block, except signals that are ignored.

    Yields a function that raises KeyboardInterrupt if a signal has arrived; the end of the block does the
    same. Only the main thread receives signals: in any other thread nothing is deferred and the function does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    deferred = _DeferredStop()
    handlers = {number: signal.signal(number, deferred.record) for number in _stop_signals()}
    try:
        yield deferred.check
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    deferred.check()


class _DeferredStop:
    """A signal that has arrived but has not been raised yet."""

    def __init__(self) -> None:
        self.arrived = False

    def record(self, *_: object) -> None:
        """Handle a signal."""
        self.arrived = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived since the last check."""
        if self.arrived:
            self.arrived = False
            raise KeyboardInterrupt


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that stop this process; a shell makes its background jobs ignore SIGINT."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def start_worker(
    job: Callable[..., object], lock: int | None, environment: Mapping[str, str], *resources: object
) -> BaseProcess:
    """Start a daemon process that runs `job` and then ends.

    job: a picklable function; its failure makes the worker's exit code 1
    lock: the descriptor of a lock file; the worker keeps it open, so that the lock is free only once it
        ended; None for a worker that writes no files
    environment: variables that are added to the worker's environment
    resources: arguments of `job` that only a new process can inherit: connections and InheritedDescriptors

    The worker is killed when this process ends. SIGTERM stops it; SIGINT (Ctrl-C) does not, because a
    terminal sends it to both processes and this one decides when its workers stop.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it lacks
    with _in_memory(pickle.dumps(job)) as content:
        held = None if lock is None else InheritedDescriptor(lock)
        arguments = (os.getpid(), dict(environment), InheritedDescriptor(content), held, *resources)
        process = context.Process(target=_work, args=arguments, daemon=True)
        resource_tracker.ensure_running()  # starting it later would unblock the signals
        # The worker inherits the mask until it handles the signals itself.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """Yield the descriptor of a file in memory with this content.

    The pipe to a new process takes 64 KiB: a process that dies before it reads more would block this one.
    """
    descriptor = os.memfd_create("mil_toolkit job")
    try:
        left = memoryview(content)
        while left:  # the kernel may write a part
            left = left[os.write(descriptor, left) :]
        yield descriptor
    finally:
        os.close(descriptor)


def stop_worker(process: BaseProcess) -> None:
    """Interrupt a worker, and resume it if it is suspended, since a suspended process handles no signal."""
    process.terminate()
    if process.pid and process.is_alive():
        os.kill(process.pid, signal.SIGCONT)


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


def _work(
    parent: int, environment: dict[str, str], content: int, _lock: int | None, *resources: object
) -> None:
    # First of all, since the lock must not outlive the parent.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raise_on_stop_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            job = pickle.loads(os.pread(content, os.fstat(content).st_size, 0))
            os.close(content)
            job(*resources)
    except (MilError, KeyboardInterrupt):
        sys.exit(1)  # the parent runs into the same error and reports it


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
