"""Start, observe and end the processes of tests."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.pool import serve
from mil_toolkit.core.verbosity import bars_disabled
from support.paths import ROOT


@dataclass(frozen=True)
class CommandServer:
    """A server that forks processes running a command; see command_server.py."""

    process: subprocess.Popen[str]

    def ask(self, **request: object) -> int:
        """Send a request and return its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run_here(self, argv: Sequence[object], log: Path) -> int:
        """Run a command in the server itself, so that later ones start faster; return its exit code."""
        return self.ask(here=[str(argument) for argument in argv], log=str(log))

    def wait(self, process: int) -> int:
        """Wait for a process; return its exit code, or minus the signal that ended it."""
        return self.ask(wait=process)


@contextlib.contextmanager
def serving(script: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command server."""
    argv = [sys.executable, str(Path(__file__).with_name(script))]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True, env=env) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def fork_command(name: str, *argv: object) -> int:
    """Start a command in a copy of this process, which has imported everything already, and return its id."""
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of threads, which the child lacks
        child = os.fork()
    if child:
        return child
    code = 99
    try:
        code = import_module(f"mil_toolkit.cli.{name}").main([str(argument) for argument in argv])
    finally:
        os._exit(code)


def stopped(process: int) -> bool:
    """Return whether a process is stopped by SIGSTOP."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def ended(process: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it yet."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], object], minutes: float = 10) -> None:
    """Wait until a condition holds; the limit only keeps a broken test from hanging."""
    deadline = time.monotonic() + 60 * minutes
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {minutes} minutes"
        time.sleep(0.01)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only; for root, who ignores file modes, by a read-only bind mount."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        done = subprocess.run(
            ["mount", *options, folder, folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"root is not allowed to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


# Functions that worker processes run: they can import this module, but not the test files.
def hold_on(file: Path) -> None:
    """Write the id of this process to a file, then wait to be ended."""
    file.write_text(str(os.getpid()))
    time.sleep(3600)


def complain() -> None:
    """Raise the kind of error that a user's mistake causes."""
    raise DataError("the parent reports this")


def serve_squares(folder: Path, connection: Connection) -> None:
    """Square numbers in a worker process, see `square`."""
    serve(connection, partial(square, folder))


def square(folder: Path, job: tuple[str, int], report: Callable[[int], None]) -> int:
    """Return the square of a job's number, and report the id of this process.

    The jobs "dies once" and "dies" kill the process, "fails" raises an error, "waits" never ends, "logs" logs
    messages of several levels, "warns" issues a warning, and "bars" logs whether progress bars are hidden.
    """
    kind, number = job
    report(os.getpid())
    with (folder / f"{kind}{number}").open("a") as file:
        file.write("begun\n")
    begun = len((folder / f"{kind}{number}").read_text().splitlines())
    if kind == "dies" or (kind == "dies once" and begun == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "logs":
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger("mil_toolkit.study.run").log(level, "job %d at level %d", number, level)
    if kind == "warns":
        warnings.warn("100 % sure\nthat this is odd", UserWarning, stacklevel=1)
    if kind == "bars":
        logging.getLogger("mil_toolkit.study.run").info("hidden: %s", bars_disabled())
    if kind == "fails":
        raise DataError("the parent reports this")
    if kind == "waits":
        time.sleep(3600)
    return number**2
