"""Locks of folders: who is kept out, and how a lock ends."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mil_toolkit.core.errors import BusyError, UsageError
from mil_toolkit.core.locks import LOCK, exclusive, shared

Lock = Callable[[Path], AbstractContextManager[int]]


def test_only_one_process_holds_the_exclusive_lock_of_a_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path / "study"):
        with pytest.raises(BusyError, match="in use by another process"), exclusive(tmp_path / "study"):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(tmp_path / "study"):
        pass


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    script = f"""
import time
from functools import partial
from pathlib import Path
from mil_toolkit.core.locks import exclusive
with exclusive(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(BusyError), exclusive(tmp_path):
            pass
        process.kill()
    end = time.monotonic() + 600
    while time.monotonic() < end:
        try:
            with exclusive(tmp_path):
                return
        except BusyError:
            time.sleep(0.01)
    pytest.fail("the lock of a killed process was not released")


def test_a_lock_of_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), exclusive(tmp_path / "file" / "folder"):
        pass


def test_shared_locks_exclude_only_the_exclusive_one(tmp_path: Path) -> None:
    with shared(tmp_path), shared(tmp_path, wait=False):
        refused = pytest.raises(BusyError, match="in use by another process")
        with refused, exclusive(tmp_path):
            pass
    with exclusive(tmp_path), pytest.raises(BusyError), shared(tmp_path, wait=False):
        pass
    with exclusive(tmp_path, "other"), shared(tmp_path, wait=False):
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("lock", [exclusive, shared])
def test_a_pipe_or_a_link_in_the_place_of_the_lock_is_refused_at_once(lock: Lock, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(UsageError, match=r"\.lock is not a regular file"), lock(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"\.lock cannot be written"), lock(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
