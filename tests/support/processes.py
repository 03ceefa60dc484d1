"""Processes that tests start, watch and end."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mil_toolkit.core.errors import DataError
from support.paths import ROOT


@dataclass(frozen=True)
class CommandServer:
    """Starts real processes that run a command; see command_server.py."""

    process: subprocess.Popen[str]

    def ask(self, **request: object) -> int:
        """Send a request, and give its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self, process: int) -> int:
        """Its exit code, or minus the signal that ended it."""
        return self.ask(wait=process)


@contextlib.contextmanager
def serving(script: str) -> Iterator[subprocess.Popen[str]]:
    """A command server's process."""
    argv = [sys.executable, str(Path(__file__).with_name(script))]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True, env=env) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def stopped(process: int) -> bool:
    """Whether a process was stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def ended(process: int) -> bool:
    """Whether a process has ended, though nobody has waited for it."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], object], minutes: float = 1) -> None:
    """Wait until a condition holds; fails where it takes too long."""
    deadline = time.monotonic() + 60 * minutes
    while not condition():
        assert time.monotonic() < deadline, f"waited for {minutes} min"
        time.sleep(0.01)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody can write to; for root, whom no mode keeps out, by mounting it over itself."""
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
            pytest.skip(f"root without the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


# What worker processes run: they find this module, but not those of the tests.
def hold_on(file: Path) -> None:
    """Say which process this is, and stay."""
    file.write_text(str(os.getpid()))
    time.sleep(60)


def complain() -> None:
    """Fail as a user's mistake does."""
    raise DataError("which the parent will tell itself")
