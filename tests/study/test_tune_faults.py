"""Runs of mil-tune that are killed, stopped, crowded or starved: no trial is lost and none is run twice.

The study ends exactly as an undisturbed one.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from support.commands import outcome
from support.processes import CommandServer, ended, read_only, serving, wait_until

from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.core.errors import BusyError
from mil_toolkit.core.locks import exclusive
from mil_toolkit.search.internals import SLOT
from mil_toolkit.search.trials import LOST

KILLS = int(os.environ.get("MIL_FAULT_KILLS", "8"))  # tox -e faults: 200
WORKER_KILLS = int(os.environ.get("MIL_FAULT_WORKER_KILLS", "2"))  # they start slowly; tox -e faults: 60
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # workers ignore the last one
TRIALS, OUTER = 6, 2
OPTIONS = ["--features", "none", "--trials", TRIALS, "--outer-folds", OUTER, "--folds", 2, "--members", 2]
OPTIONS += ["--epochs", 6, "--device", "cpu"]
ALL = TRIALS * (OUTER + 1)
Bits = dict[str, bytes]


@dataclass(frozen=True)
class Server(CommandServer):
    """Starts real processes that run mil-tune on the metadata of a cohort."""

    toml: Path
    folder: Path

    def start(self, study: Path, *more: object, fault: Sequence[object] = ()) -> int:
        """The id of a process that tunes into `study`; what it says goes to `study`.log."""
        argv = [str(each) for each in (self.toml, "--study", study, *OPTIONS, *more)]
        return self.ask(argv=argv, env={}, log=str(log(study)), fault=fault)

    def run(self, study: Path, *more: object, fault: Sequence[object] = ()) -> int:
        return self.wait(self.start(study, *more, fault=fault))


def log(study: Path) -> Path:
    return study.with_suffix(".log")


def said(study: Path) -> str:
    text = log(study).read_text()
    assert "Traceback" not in text, text
    return text


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("faults")
    toml = draw_cohort(folder / "cohort", patients=24, unlabelled=0, image_size=8, images=(1, 2))
    with serving("tune_server.py") as process:
        yield Server(process, toml, folder)


@pytest.fixture(scope="module", name="whole")
def _whole(server: Server) -> Bits:
    """What an undisturbed run finds."""
    study = server.folder / "whole"
    argv = (server.toml, "--study", study, *OPTIONS)
    assert server.run_here(argv, log(study)) == 0, said(study)
    return outcome(study)


def stored(study: Path) -> list[tuple[str, int]]:
    """The search and slot of every trial that came to its end; nothing of them may ever be lost."""
    if not (study / "optuna.db").exists():
        return []
    copy = shutil.copytree(study, study.with_suffix(".copy"), dirs_exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{copy / 'optuna.db'}")
    found = []
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or LOST in trial.user_attrs:
                found.append((name, trial.user_attrs[SLOT]))
    shutil.rmtree(copy)
    return found


def walked(study: Path) -> int:
    """Trials whose epochs are written."""
    return sum(len(glob(f"{study}/{folder}epochs/*.jsonl")) for folder in ("", "outer/*/"))


def exact(study: Path) -> bool:
    """Whether every slot of every search was run to its end once."""
    counts = Counter(stored(study))
    return len(counts) == ALL and set(counts.values()) == {1}


# Killed.


def test_random_kills_lose_nothing_and_change_nothing(server: Server, whole: Bits) -> None:
    """A chain of runs of one study, each killed at a random moment, until one comes to its end; many chains.

    A kill counts where it left something begun, and something to do.
    """
    source, counted, runs, chains = random.Random(0), 0, 0, 0
    while counted < KILLS:
        study = server.folder / f"chain{chains}"
        chains += 1
        code, before = -signal.SIGKILL, set[tuple[str, int]]()
        while code:
            process = server.start(study)
            await_moment(process, study, source)
            os.kill(process, signal.SIGKILL)
            runs, code = runs + 1, server.wait(process)
            assert code in (0, -signal.SIGKILL), said(study)
            found = stored(study)
            assert before <= set(found) and len(set(found)) == len(found)
            counted += bool(code) and walked(study) > 0
            before = set(found)
        assert outcome(study) == whole and exact(study) and not list(study.rglob(".tmp-*"))
        shutil.rmtree(study)
    print(f"{counted} kills that count, of {runs} runs; {chains} chains that came to their end.")


def await_moment(process: int, study: Path, source: random.Random) -> None:
    """Wait for a random number of further trials, then for as long as one may take."""
    target = walked(study) + source.randint(0, 6)
    while walked(study) < target and not ended(process):
        time.sleep(0.01)
    time.sleep(source.uniform(0.0, 0.1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_loses_nothing(number: signal.Signals, server: Server, whole: Bits, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for target in (3, 9):
        process = server.start(study)
        wait_until(lambda: walked(study) >= target)  # noqa: B023 - called at once
        os.kill(process, number)
        assert server.wait(process) == 130 and said(study).endswith("interrupted\n")
        with exclusive(study):
            assert len(stored(study)) >= target - 1
    assert server.run(study) == 0 and outcome(study) == whole


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def workers(process: int) -> list[int]:
    """Its worker processes, without the one that multiprocessing keeps for itself."""
    return [each for each in children(process) if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


@pytest.mark.parametrize("victim", ["all", "one", "stop"])
def test_workers_and_their_end(victim: str, server: Server, whole: Bits, tmp_path: Path) -> None:
    """Killed with the command, killed alone, or stopped: each slot is run once, to the same bits."""
    study = tmp_path / "study"
    process = server.start(study, "--workers", 2)
    wait_until(lambda: walked(study) >= 2)
    assert len(workers(process)) == 2
    if victim == "one":
        os.kill(workers(process)[0], signal.SIGKILL)
        assert server.wait(process) == 0 and "1 of 2 workers were killed" in said(study)
    else:
        os.kill(process, signal.SIGKILL if victim == "all" else signal.SIGTERM)
        assert server.wait(process) == (-signal.SIGKILL if victim == "all" else 130)
        assert server.run(study) == 0, said(study)  # at once: the workers' lock is gone
    assert exact(study) and outcome(study) == whole


def test_random_ends_of_workers_and_commands_lose_nothing_and_change_nothing(
    server: Server, whole: Bits
) -> None:
    """A chain of runs with two or three workers; each time something is killed or stopped at random.

    The command, one of its workers, or both, by SIGKILL, SIGTERM or (the command) Ctrl-C.
    """
    source, ended_by, chains = random.Random(1), Counter[str](), 0
    while sum(ended_by.values()) < WORKER_KILLS:
        study = server.folder / f"side{chains}"
        chains += 1
        code, before = 1, set[tuple[str, int]]()
        while code:
            process = server.start(study, "--workers", source.choice((2, 3)))
            await_moment(process, study, source)
            ended_by[end_at_random(process, source)] += not ended(process)
            code = server.wait(process)
            assert code in (0, 130, -signal.SIGKILL), said(study)
            assert not orphans(study), "a worker outlived its command"
            found = stored(study)
            assert before <= set(found) and len(set(found)) == len(found)
            before = set(found)
        assert outcome(study) == whole and exact(study) and not list(study.rglob(".tmp-*"))
        shutil.rmtree(study)
    print(f"{dict(ended_by)}; {chains} chains that came to their end.")


def end_at_random(process: int, source: random.Random) -> str:
    """Send a signal to the command, to one of its workers, or to both; return what happened."""
    victim, number = source.choice(("command", "worker", "both")), source.choice(ENDS)
    with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
        if victim != "command":
            os.kill(source.choice(workers(process)), number)
        if victim != "worker":
            os.kill(process, number)
    return f"{victim} {number.name}"


def orphans(study: Path) -> list[int]:
    """Return the workers that still hold the lock of a study whose command has ended, after a moment."""
    with contextlib.suppress(BusyError), exclusive(study):
        return []
    return [1]


# Crowded.


def test_a_second_command_in_the_folder_is_sent_away(server: Server, whole: Bits, tmp_path: Path) -> None:
    study = tmp_path / "study"
    first = server.start(study)
    wait_until(lambda: walked(study) >= 1)
    log(study).rename(tmp_path / "first.log")
    assert server.run(study, "--seed", 5) == 75 and "in use by another process" in said(study)
    assert server.wait(first) == 0 and outcome(study) == whole
    assert server.run(study, "--seed", 5) == 3 and "study.seed: 0 there, 5 now." in said(study)
    assert outcome(study) == whole


# Starved.


@pytest.mark.parametrize(
    ("limit", "kept"), [(100_000, "Files that were complete are kept"), (123_000, "Finished trials are kept")]
)
def test_a_full_disk_is_reported_and_the_study_resumes(
    limit: int, kept: str, server: Server, whole: Bits, tmp_path: Path
) -> None:
    """A limit on the size of files stops the storage: at once, or after some trials."""
    study = tmp_path / "study"
    assert server.run(study, fault=["limit", "", limit]) == 2
    assert kept in said(study) and not (study / "DONE").exists()
    before = set() if limit == 100_000 else set(stored(study))
    assert bool(before) == (limit > 100_000)
    assert server.run(study) == 0 and before <= set(stored(study))
    assert outcome(study) == whole


def test_a_full_tmpfs_is_reported_and_the_study_resumes(server: Server, whole: Bits, tmp_path: Path) -> None:
    study = tmp_path / "disk" / "study"
    study.parent.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=260k", "tmpfs", study.parent]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    try:
        argv = [str(each) for each in (server.toml, "--study", study, *OPTIONS)]
        process = server.ask(argv=argv, env={}, log=str(tmp_path / "log"), fault=[])
        assert server.wait(process) == 2 and "Traceback" not in (tmp_path / "log").read_text()
        assert walked(study) > 0
        subprocess.run(["mount", "-o", "remount,size=50m", study.parent], check=True)
        process = server.ask(argv=argv, env={}, log=str(tmp_path / "log"), fault=[])
        assert server.wait(process) == 0 and outcome(study) == whole
    finally:
        subprocess.run(["umount", study.parent], check=True)


def test_a_read_only_study_is_reported(server: Server, whole: Bits, tmp_path: Path) -> None:
    study = tmp_path / "study"
    process = server.start(study)
    wait_until(lambda: walked(study) >= 4)
    os.kill(process, signal.SIGKILL)
    server.wait(process)
    with read_only(study):
        assert server.run(study) == 2 and "cannot be written: Read-only file system" in said(study)
    assert server.run(study) == 0 and outcome(study) == whole
    with read_only(study):
        assert server.run(study) == 2 and outcome(study) == whole
