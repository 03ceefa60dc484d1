"""Worker processes, and signals that stop a process only where no work is left half done."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.system import POSIX

if TYPE_CHECKING or POSIX:
    from mil_toolkit.core import posix_workers as system
    from mil_toolkit.core.posix_workers import InheritedDescriptor, anonymous_file
else:
    from mil_toolkit.core import windows_workers as system
    from mil_toolkit.core.windows_workers import InheritedDescriptor, anonymous_file

__all__ = [
    "SIGNALS",
    "InheritedDescriptor",
    "anonymous_file",
    "defer_stop_signals",
    "raise_on_stop_signals",
    "start_worker",
    "stop_worker",
]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
            system.stop_again_soon()
        else:
            default_hook(discarded)

    system.prepare_to_stop_again()
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
    lock: the descriptor of a lock file; on Linux and macOS the worker keeps it open, so that the lock is free
        only once it ended; None for a worker that writes no files
    environment: variables that are added to the worker's environment
    resources: arguments of `job` that only a new process can inherit: connections and InheritedDescriptors

    The worker is killed when this process ends. SIGTERM stops it; SIGINT (Ctrl-C) does not, because a
    terminal sends it to both processes and this one decides when its workers stop. On Windows a worker
    inherits neither the lock nor descriptors: if this process is killed, its lock is free at once, and the
    worker may end a moment later.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it lacks
    with system.passed(pickle.dumps(job)) as content:
        held = None if lock is None else system.held(lock)
        arguments = (os.getpid(), dict(environment), content, held, *resources)
        process = context.Process(target=_work, args=arguments, daemon=True)
        with system.blocked(SIGNALS):  # the worker inherits the mask until it handles the signals itself
            process.start()
    return process


def stop_worker(process: BaseProcess) -> None:
    """Interrupt a worker, and resume it if it is suspended, since a suspended process handles no signal."""
    process.terminate()
    if process.pid and process.is_alive():
        system.resume(process.pid)


def _work(
    parent: int, environment: dict[str, str], content: "system.Passed", _lock: int | None, *resources: object
) -> None:
    system.end_with_parent()  # first of all, since the lock must not outlive the parent
    if os.getppid() != parent:
        return
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raise_on_stop_signals():
            system.unblock(SIGNALS)
            pickle.loads(system.received(content))(*resources)
    except (MilError, KeyboardInterrupt):
        sys.exit(1)  # the parent runs into the same error and reports it


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
