"""`IsolatedProcess`: run a parser of untrusted files in a process of its own, with limits for each file.

libhdf5 crashes, loops or asks for any amount of memory on some damaged files. In a child process, none of it
harms the process that reads the file.
"""

import contextlib
import faulthandler
import math
import os
import signal
import warnings
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.system import POSIX

if TYPE_CHECKING or POSIX:
    import resource

_STATM = Path("/proc/self/statm")
_MOST = 16_384 * MEBIBYTE
_DONE, _REFUSED = b"\0", b"\1"
_STARTING_SECONDS = 60  # until a new process has imported what it needs
# How a process ends that took too long; on Windows, multiprocessing reports a kill as SIGTERM.
_KILLED = (-signal.SIGXCPU, -signal.SIGKILL) if POSIX else (-signal.SIGTERM, -9)


class Limits(NamedTuple):
    """What an isolated function may use: bytes beside those of its process, and seconds of a core."""

    memory: int
    seconds: int

    @classmethod
    def of(cls, size: int) -> "Limits":
        """Return generous limits for a file of so many bytes, which may expand when it is read."""
        return cls(512 * MEBIBYTE + min(128 * size, _MOST), 3 + size // MEBIBYTE)


class IsolatedError(Exception):
    """The reason why an isolated function has no result."""


Isolated = Callable[[Callable[[], bytes], Limits], bytes]  # `run_isolated`, or the method of a process


class _Child(Protocol):
    """A process that calls functions."""

    connection: Connection

    def kill(self) -> None:
        """Kill the process."""

    def reap(self) -> int:
        """Wait for the end of the process, and return its exit code or minus the signal that ended it."""

    def await_reply(self, limits: Limits) -> None:
        """Wait for the reply to a function, at most as long as the limits allow, if nothing else does."""


class _Copy:
    """A copy of this process, which limits itself."""

    def __init__(self, process: int, connection: Connection):
        self._process, self.connection = process, connection

    def kill(self) -> None:
        """Kill the process."""
        os.kill(self._process, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for the end of the process, and return its exit code or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])

    def await_reply(self, limits: Limits) -> None:
        """Do nothing: the limit on the time of the processor ends the process."""


class _NewProcess:
    """A new process, on Windows, where processes have no limits: this one limits its time only."""

    def __init__(self, process: BaseProcess, connection: Connection):
        self._process, self.connection = process, connection

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def reap(self) -> int:
        """Wait for the end of the process, and return its exit code or minus a signal if it was killed."""
        self._process.join()
        return self._process.exitcode or 0

    def await_reply(self, limits: Limits) -> None:
        """Wait for the reply, and kill a process that takes too long."""
        if not self.connection.poll(_STARTING_SECONDS + limits.seconds):
            self.kill()


class IsolatedProcess:
    """A copy of this process, made at the first call, in which functions are called one after the other.

    On Windows, which copies no processes, a new process.

    A function that has no result may leave the library that it used in a broken state, so the next one gets a
    new process. And it may suffer from what an earlier function left behind, so it is called once more in a
    new process before it is reported.

    Leaving the context ends the process.
    """

    def __init__(self) -> None:
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def call(self, function: Callable[[], bytes], limits: Limits) -> bytes:
        """Return the result of a function that is called in the other process.

        function: can be pickled, and uses no threads, which a copy of a process lacks

        Raises IsolatedError with the text of any exception that the function raises, or if it crashes or
        exceeds the limits.
        """
        if self._child is not None:
            with contextlib.suppress(IsolatedError):
                return self._ask(self._child, function, limits)
        self._child = _start()
        return self._ask(self._child, function, limits)

    def _ask(self, child: _Child, function: Callable[[], bytes], limits: Limits) -> bytes:
        try:
            child.connection.send((function, limits))
            child.await_reply(limits)
            kind, content = child.connection.recv_bytes(), child.connection.recv_bytes()
        except (EOFError, OSError):
            raise IsolatedError(_reason(self._reap(), limits)) from None
        if kind == _REFUSED:
            self._end()
            raise IsolatedError(content.decode(errors="replace"))
        return content

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._reap()

    def _reap(self) -> int:
        """Forget the process, and return how it ended."""
        assert self._child is not None
        child, self._child = self._child, None
        child.connection.close()
        return child.reap()


def run_isolated(function: Callable[[], bytes], limits: Limits) -> bytes:
    """Return the result of a function that is called in a process of its own: `IsolatedProcess.call`."""
    with IsolatedProcess() as process:
        return process.call(function, limits)


def _start() -> _Child:
    ours, theirs = Pipe()
    if not POSIX:
        new = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        new.start()
        theirs.close()
        return _NewProcess(new, ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the functions do not use
        process = os.fork()
    if not process:
        ours.close()
        _serve(theirs)
    theirs.close()
    return _Copy(process, ours)


def _serve(connection: Connection) -> None:
    """Call functions in the other process until the other end of the pipe is closed; never returns."""
    with contextlib.suppress(BaseException):
        faulthandler.disable()  # a crash is reported by the parent
        if POSIX:
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            function, limits = connection.recv()
            if POSIX:
                _limit(limits)
            for part in _reply(function, limits):
                connection.send_bytes(part)
    os._exit(1)


def _reply(function: Callable[[], bytes], limits: Limits) -> tuple[bytes, bytes]:
    try:
        return _DONE, function()
    except MemoryError:
        return _REFUSED, f"it needs more than {limits.memory // MEBIBYTE:,} MiB of memory".encode()
    except (MilError, Exception) as error:  # noqa: BLE001 - h5py raises nearly anything
        return _REFUSED, (str(error) or type(error).__name__).encode(errors="replace")


def _limit(limits: Limits) -> None:
    """Let the next function use so much beside what this process uses already."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(spent.ru_utime + spent.ru_stime) + limits.seconds)
    if _STATM.exists():  # Linux
        used = int(read_input(_STATM, MEBIBYTE).split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + limits.memory)


def _lower(kind: int, limit: int) -> None:
    """Set a limit of this process; the hard limit stays, so that the next function can have more."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _reason(status: int, limits: Limits) -> str:
    if status in _KILLED:
        return f"it takes more than {limits.seconds} seconds to read"
    return "its structure is broken, and makes the library that reads it crash"
