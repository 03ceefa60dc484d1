"""Processes that hold their parent's lock and end with it; signals that wait."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import complain, hold_on, stopped, wait_until

from mil_toolkit.core.errors import BusyError
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.processes import start_worker, stop_worker, stops_deferred, stops_heeded


def taken(folder: Path) -> bool:
    try:
        with exclusive(folder):
            return False
    except BusyError:
        return True


PARENT = """
import sys
from functools import partial
from pathlib import Path
from support.processes import hold_on
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.processes import start_worker
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with exclusive(folder) as lock:
        start_worker(partial(hold_on, folder / "pid"), lock, {}).join()
"""


def test_a_worker_ends_with_its_parent_and_lets_go_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path], env=env) as parent:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        parent.kill()
    wait_until(lambda: not taken(tmp_path))
    worker = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.kill(worker, 0))


def test_the_lock_is_held_until_the_last_worker_ends(tmp_path: Path) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial(hold_on, tmp_path / "pid"), lock, {})
    wait_until(lambda: (tmp_path / "pid").exists())
    assert taken(tmp_path)
    worker.terminate()
    worker.join()
    assert worker.exitcode == 1 and not taken(tmp_path)


def test_a_worker_that_somebody_suspended_can_be_stopped(tmp_path: Path) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial(hold_on, tmp_path / "pid"), lock, {})
    wait_until((tmp_path / "pid").exists)
    assert worker.pid
    os.kill(worker.pid, signal.SIGSTOP)
    wait_until(lambda: stopped(worker.pid or 0))
    stop_worker(worker)
    worker.join(600)
    assert worker.exitcode == 1


def test_an_error_is_left_to_the_parent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(complain, lock, {})
    worker.join()
    assert worker.exitcode == 1 and capfd.readouterr().err == ""


def test_signals_wait_for_a_worker_that_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C in a terminal, a batch system's SIGTERM and its parent's: Python itself would show a traceback."""
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial(hold_on, tmp_path / "pid"), lock, {})
    assert worker.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.kill(worker.pid, number)
    worker.join()
    assert worker.exitcode == 1 and capfd.readouterr().err == ""
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_a_good_moment(number: signal.Signals) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), stops_deferred() as check:
        check()
        os.kill(os.getpid(), number)
        reached.append("behind the signal")
        check()
        reached.append("behind the check")
    with pytest.raises(KeyboardInterrupt), stops_deferred():
        os.kill(os.getpid(), number)
        reached.append("without a check")
    assert reached == ["behind the signal", "without a check"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_defers_nothing() -> None:
    done = []

    def run() -> None:
        with stops_deferred() as check:
            check()
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


class Last:
    """What gets a signal on its way out, where Python lets no error out."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_would_lose_comes_again(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), stops_heeded():
        Last(number)
        time.sleep(60)
    assert capfd.readouterr().err == ""


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As for a background job of a shell's script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stops_heeded():
        os.kill(os.getpid(), signal.SIGINT)
        with stops_deferred() as check:
            os.kill(os.getpid(), signal.SIGINT)
            check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
