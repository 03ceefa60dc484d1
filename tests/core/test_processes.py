"""Workers, which hold their parent's lock and end with it, and deferred signals."""

import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import complain, hold_on, stopped, wait_until

from mil_toolkit.core.errors import BusyError
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.processes import defer_stop_signals, raise_on_stop_signals, start_worker, stop_worker


def locked(folder: Path) -> bool:
    try:
        with exclusive(folder):
            return False
    except BusyError:
        return True


PARENT = """
import sys
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from support.processes import hold_on
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.processes import start_worker
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with exclusive(folder) as lock:
        start_worker(partial(hold_on, folder / "pid"), lock, {}).join()
"""


def test_a_worker_ends_with_its_parent_and_releases_the_lock(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path], env=env) as parent:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        parent.kill()
    wait_until(lambda: not locked(tmp_path))
    worker = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.kill(worker, 0))


def test_the_lock_is_held_until_the_last_worker_ends(tmp_path: Path) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial(hold_on, tmp_path / "pid"), lock, {})
    wait_until(lambda: (tmp_path / "pid").exists())
    assert locked(tmp_path)
    worker.terminate()
    worker.join()
    assert worker.exitcode == 1 and not locked(tmp_path)


def test_a_suspended_worker_can_be_stopped(tmp_path: Path) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial(hold_on, tmp_path / "pid"), lock, {})
    wait_until((tmp_path / "pid").exists)
    assert worker.pid
    os.kill(worker.pid, signal.SIGSTOP)
    wait_until(lambda: stopped(worker.pid or 0))
    stop_worker(worker)
    worker.join(600)
    assert worker.exitcode == 1


def test_the_parent_reports_the_error_of_a_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(complain, lock, {})
    worker.join()
    assert worker.exitcode == 1 and capfd.readouterr().err == ""


def test_signals_are_deferred_until_a_worker_has_started(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python itself would print a traceback upon Ctrl-C or a SIGTERM from a batch system or the parent."""
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial(hold_on, tmp_path / "pid"), lock, {})
    assert worker.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.kill(worker.pid, number)
    worker.join()
    assert worker.exitcode == 1 and capfd.readouterr().err == ""
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_that_dies_before_it_reads_its_job_does_not_block_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of a megabyte does not fit into the pipe to a new process."""
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/true")
    started: list[BaseProcess] = []
    with exclusive(tmp_path) as lock:
        job = partial(len, bytes(2**20))
        thread = threading.Thread(target=lambda: started.append(start_worker(job, lock, {})), daemon=True)
        thread.start()
        wait_until(lambda: not thread.is_alive())
    started[0].join()
    assert started[0].exitcode == 0


def test_a_large_job_reaches_its_worker(tmp_path: Path) -> None:
    with exclusive(tmp_path) as lock:
        worker = start_worker(partial((tmp_path / "written").write_bytes, bytes(2**20)), lock, {})
    worker.join()
    assert worker.exitcode == 0 and (tmp_path / "written").read_bytes() == bytes(2**20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deferred_signal_is_raised_by_the_next_check(number: signal.Signals) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_stop_signals() as check:
        check()
        os.kill(os.getpid(), number)
        reached.append("after the signal")
        check()
        reached.append("after the check")
    with pytest.raises(KeyboardInterrupt), defer_stop_signals():
        os.kill(os.getpid(), number)
        reached.append("without a check")
    assert reached == ["after the signal", "without a check"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_defer_nothing() -> None:
    done = []

    def run() -> None:
        with defer_stop_signals() as check:
            check()
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


class SignalOnDeletion:
    """Sends a signal from its destructor, where Python discards exceptions."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_discards_is_raised_again(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), raise_on_stop_signals():
        SignalOnDeletion(number)
        time.sleep(60)
    assert capfd.readouterr().err == ""


def test_an_ignored_signal_stays_ignored() -> None:
    """A shell script makes its background jobs ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raise_on_stop_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with defer_stop_signals() as check:
            os.kill(os.getpid(), signal.SIGINT)
            check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
