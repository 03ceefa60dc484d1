"""The Windows side of the code, on a system from which most of what Windows lacks is hidden."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import ended, wait_until

if sys.platform != "linux":
    pytest.skip("hides what Linux has", allow_module_level=True)

FORBIDDEN = re.compile(r'[<>:"\\|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)

LOCKS = """
import sys
from pathlib import Path
from mil_toolkit.core.errors import BusyError
from mil_toolkit.core.files import publish, remove_dead_temporaries, temporary_folder
from mil_toolkit.core.locks import exclusive, shared

def is_busy(lock):
    try:
        with lock:
            return False
    except BusyError:
        return True

folder = Path("folder")
with exclusive(folder):
    print(is_busy(exclusive(folder)), is_busy(shared(folder, wait=False)))
with shared(folder), shared(folder):
    print(is_busy(exclusive(folder)), is_busy(shared(folder, wait=False)))
print(is_busy(exclusive(folder)))
publish(folder / "file", b"first\\n")
publish(folder / "file", b"second\\n")
print((folder / "file").read_bytes())
with temporary_folder(folder) as temporary:
    (temporary / "inside").touch()
    remove_dead_temporaries(folder)
    print((temporary / "inside").exists())
dead = folder / ".tmp-0123456789abcdef"
dead.mkdir()
remove_dead_temporaries(folder)
print(sorted(path.name for path in folder.iterdir()))
"""

WORKERS = """
import sys, time
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from support.processes import hold_on
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.processes import start_worker, stop_worker
from mil_toolkit.features.isolation import IsolatedError, Limits, run_isolated

if __name__ == "__main__":
    with exclusive(Path("folder")) as lock:
        worker = start_worker(partial(hold_on, Path("pid")), lock, {"NOTED": "yes"})
        while not (Path("pid").exists() and Path("pid").read_text()):
            time.sleep(0.02)
        stop_worker(worker)
        worker.join()
    print(worker.exitcode != 0, run_isolated(partial(bytes, 3), Limits.of(1)))
    try:
        run_isolated(partial(int, "x"), Limits.of(1))
    except IsolatedError as error:
        print(error)
    orphan = start_worker(partial(hold_on, Path("orphan")), None, {})
    while not (Path("orphan").exists() and Path("orphan").read_text()):
        time.sleep(0.02)
    sys.stdout.flush()
    import os
    os._exit(0)
"""


@pytest.fixture(name="python")
def _python(tmp_path: Path) -> "Python":
    return Python(tmp_path)


class Python:
    """Runs Python programs, and all processes that they start, without most of what Windows lacks."""

    def __init__(self, folder: Path):
        self.folder, self._printed = folder / "work", folder / "printed"
        self.folder.mkdir()
        hiding = folder / "hiding"
        hiding.mkdir()
        (hiding / "sitecustomize.py").write_text("import support.without_posix\n")
        places = map(str, (hiding, ROOT, ROOT / "tests"))
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}

    def run(self, *argv: str | Path) -> str:
        """Run a program that must succeed, and return what it prints.

        It prints to files: a worker that outlives the program would keep a pipe open.
        """
        errors = self._printed.with_name("errors")
        with self._printed.open("w") as out, errors.open("w") as err:
            done = subprocess.run(
                [sys.executable, *argv],
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=err,
                check=False,
                timeout=300,
            )
        assert done.returncode == 0, errors.read_text()
        return self._printed.read_text()


def test_locks_and_temporary_files_work_without_flock(python: Python) -> None:
    lines = python.run("-c", LOCKS).splitlines()
    assert lines == ["True True", "True False", "False", r"b'second\n'", "True", "['.lock', 'file']"]


def test_workers_start_stop_and_end_with_their_parent_without_fork(python: Python) -> None:
    (python.folder / "program.py").write_text(WORKERS)
    lines = python.run("program.py").splitlines()
    assert lines == [r"True b'\x00\x00\x00'", "invalid literal for int() with base 10: 'x'"]
    orphan = int((python.folder / "orphan").read_text())
    wait_for_end(orphan)


def wait_for_end(process: int) -> None:
    def has_ended() -> bool:
        try:
            os.kill(process, 0)
            return ended(process)
        except OSError:  # it may end between the two steps
            return True

    wait_until(has_ended)


def test_every_step_runs_on_the_windows_side_and_names_files_as_windows_allows(python: Python) -> None:
    python.run("-m", "support.windows_pipeline")
    names = [path.name for path in python.folder.rglob("*")]
    assert [name for name in names if FORBIDDEN.search(name)] == []
    assert (python.folder / "studies" / "s" / "report.html").exists()
    assert not [name for name in names if name.startswith(".tmp-")]
