"""Functions that crash, loop or ask for memory in a process of their own."""

import os
import signal
from pathlib import Path

import pytest

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.isolation import IsolatedError, Limits, run_isolated

LIMITS = Limits(64 * 2**20, 1)


def _crash() -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def _exit() -> bytes:
    os._exit(0)


def _loop() -> bytes:
    while True:
        pass


def _fail() -> bytes:
    raise KeyError("embeddings")


def _refuse() -> bytes:
    raise DataError(["one", "two"])


def test_the_result_is_returned() -> None:
    for result in (b"", b"\0\1", bytes(10**6)):
        assert run_isolated(lambda result=result: result, LIMITS) == result


def test_crashes_and_errors_and_loops_are_reported() -> None:
    for function, reason in (
        (_crash, "makes the library that reads it crash"),
        (_exit, "makes the library that reads it crash"),
        (_loop, "takes more than 1 seconds"),
        (_fail, "^'embeddings'$"),
        (_refuse, "^one\ntwo$"),
        (lambda: bytes(2**32), "needs more than 64 MiB of memory"),
    ):
        with pytest.raises(IsolatedError, match=reason):
            run_isolated(function, LIMITS)


def children() -> list[str]:
    """Return the ids of this thread's child processes; other tests may have left some of them."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_no_process_is_left() -> None:
    before = children()
    with pytest.raises(IsolatedError):
        run_isolated(_crash, LIMITS)
    run_isolated(bytes, LIMITS)
    assert children() == before
