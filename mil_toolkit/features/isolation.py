"""`run_isolated`: run a parser of untrusted files in a process of its own, with limits.

libhdf5 crashes, loops or asks for any amount of memory on some damaged files. In a child process, none of it
harms the process that reads the file.
"""

import contextlib
import faulthandler
import os
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.reading import MEBIBYTE, read_input

_STATM = Path("/proc/self/statm")
_MOST = 16_384 * MEBIBYTE
_DONE, _REFUSED = b"\0", b"\1"


class Limits(NamedTuple):
    """What an isolated function may use: bytes beside those of this process, and seconds of a core."""

    memory: int
    seconds: int

    @classmethod
    def of(cls, size: int) -> "Limits":
        """Return generous limits for a file of so many bytes, which may expand when it is read."""
        return cls(512 * MEBIBYTE + min(128 * size, _MOST), 3 + size // MEBIBYTE)


class IsolatedError(Exception):
    """The reason why an isolated function has no result."""


def run_isolated(function: Callable[[], bytes], limits: Limits) -> bytes:
    """Return the result of a function that is called in a copy of this process.

    Raises IsolatedError with the text of any exception that the function raises, or if it crashes or exceeds
    the limits. The function must not use threads, which a copy of a process lacks.
    """
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the function does not use
        child = os.fork()
    if not child:
        _run_and_exit(function, limits, sender)
    os.close(sender)
    try:
        with os.fdopen(receiver, "rb") as pipe:
            reply = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not reply:
        raise IsolatedError(_reason(status, limits))
    if reply[:1] == _REFUSED:
        raise IsolatedError(reply[1:].decode(errors="replace"))
    return reply[1:]


def _run_and_exit(function: Callable[[], bytes], limits: Limits, sender: int) -> None:
    """Run the function in the child process and send its result; never returns."""
    status = 1
    with contextlib.suppress(BaseException):
        _limit(limits)
        try:
            parts = (_DONE, function())
        except MemoryError:
            parts = (_REFUSED, f"it needs more than {limits.memory // MEBIBYTE:,} MiB of memory".encode())
        except (MilError, Exception) as error:  # noqa: BLE001 - h5py raises nearly anything
            parts = (_REFUSED, (str(error) or type(error).__name__).encode(errors="replace"))
        with os.fdopen(sender, "wb") as pipe:
            pipe.writelines(parts)
        status = 0
    os._exit(status)


def _limit(limits: Limits) -> None:
    faulthandler.disable()  # a crash is reported by the parent
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds))
    if _STATM.exists():  # Linux
        used = int(read_input(_STATM, MEBIBYTE).split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory,) * 2)


def _reason(status: int, limits: Limits) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {limits.seconds} seconds to read"
    return "its structure is broken, and makes the library that reads it crash"
