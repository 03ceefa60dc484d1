"""Slots: each trial runs exactly once, whichever processes run them; storages that cannot be used."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.locks import CLAIM, exclusive
from mil_toolkit.search import storage as storages
from mil_toolkit.search.internals import SLOT, SlotHyperband
from mil_toolkit.search.slots import Slots
from mil_toolkit.search.storage import DatabaseStorage, MemoryStorage, Storage
from mil_toolkit.search.trials import NoValue, RunningTrial


def slots(storage: Storage, count: int = 4, **more: object) -> Slots:
    return Slots(storage, "final", count, False, optuna.pruners.NopPruner(), **more)  # type: ignore[arg-type]


def sampler(number: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=number, n_startup_trials=2)


def square(running: RunningTrial) -> float:
    return running.trial.suggest_float("x", -1, 1) ** 2


def run_all(of: Slots) -> list[tuple[int, float]]:
    while of.run_next(square, sampler):
        pass
    return [(trial.number, trial.value) for trial in of.counted if trial.value is not None]


def interrupted(running: RunningTrial) -> float:
    running.trial.suggest_float("x", -1, 1)
    raise KeyboardInterrupt


def without_value(running: RunningTrial) -> float:
    running.trial.suggest_float("x", -1, 1)
    raise NoValue("diverged")


def leave_running(of: Slots) -> None:
    """Leave a running trial, as a killed process does."""
    of._enqueue()
    of.study.sampler = sampler(9)
    of.study.ask().suggest_float("x", -1, 1)


def leave_waiting(of: Slots) -> None:
    """Leave a waiting trial, as a process does that is killed between enqueuing and taking it."""
    of._enqueue()


@pytest.fixture(name="undisturbed")
def _undisturbed() -> list[tuple[int, float]]:
    return run_all(slots(MemoryStorage(), 8))


def test_every_slot_is_run_once(undisturbed: list[tuple[int, float]]) -> None:
    assert [number for number, _ in undisturbed] == list(range(8))


@pytest.mark.parametrize("fault", [leave_running, leave_waiting])
def test_a_slot_whose_process_died_is_run_in_its_own_place(
    fault: Callable[[Slots], None], undisturbed: list[tuple[int, float]], tmp_path: Path
) -> None:
    """The sampler then sees what it would have seen without the death."""
    storage = DatabaseStorage(tmp_path)
    for before in (0, 3, 5):
        of = slots(storage, 8)
        of.fail_running()  # as a command does that has taken the lock
        while len(of.counted) < before:
            of.run_next(square, sampler)
        fault(of)
    again = slots(storage, 8)
    again.fail_running()
    assert run_all(again) == undisturbed and again.ended


def test_an_interrupted_trial_is_failed_and_its_slot_free(undisturbed: list[tuple[int, float]]) -> None:
    of = slots(MemoryStorage(), 8)
    with pytest.raises(KeyboardInterrupt):
        of.run_next(interrupted, sampler)
    assert [trial.state for trial in of.study.trials] == [TrialState.FAIL] and not of.counted
    assert run_all(of) == undisturbed


def test_a_trial_without_a_value_uses_up_its_slot() -> None:
    of = slots(MemoryStorage(), 3)
    assert of.run_next(without_value, sampler)
    assert run_all(of) != [] and of.ended and len(of.counted) == 3
    assert of.counted[0].state == "FAIL" and of.study.trials[0].user_attrs["lost"] == "diverged"


def test_a_trial_without_a_slot_fails_without_being_run(undisturbed: list[tuple[int, float]]) -> None:
    """Such as one that somebody enqueued in the dashboard."""
    of = slots(MemoryStorage(), 8)
    of.study.enqueue_trial({"x": 0.5})
    of.run_next(square, sampler)
    of.study.enqueue_trial({"x": 0.5})
    assert run_all(of) == undisturbed
    others = [trial for trial in of.study.trials if SLOT not in trial.user_attrs]
    assert [trial.state for trial in others] == [TrialState.FAIL] * 2 and not any(o.params for o in others)


def test_planned_parameters_come_first() -> None:
    of = slots(MemoryStorage(), 3, planned=[{"x": 0.25}, {"x": 0.5}])
    assert [value for _, value in run_all(of)][:2] == [0.0625, 0.25]


def test_a_trial_keeps_its_logits_to_the_bit(tmp_path: Path) -> None:
    logits = np.array([0.1, -3.25, 1e-20, 40.0], dtype=np.float32)

    def recorded(running: RunningTrial) -> float:
        if running.number:
            running.record_logits(logits)
        return square(running)

    of = slots(DatabaseStorage(tmp_path), 2)
    while of.run_next(recorded, sampler):
        pass
    without, kept = slots(DatabaseStorage(tmp_path), 2).counted
    assert without.logits is None and kept.logits is not None
    np.testing.assert_array_equal(kept.logits, logits)


def test_the_first_trial_is_never_pruned() -> None:
    class PruneAll(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            return True

    def reported(running: RunningTrial) -> float:
        running.report(1, 0.5)
        return square(running)

    of = Slots(MemoryStorage(), "final", 3, False, PruneAll())
    while of.run_next(reported, sampler):
        pass
    assert [trial.state for trial in of.counted] == ["COMPLETE", "PRUNED", "PRUNED"]


def test_a_closed_search_begins_nothing() -> None:
    of = slots(MemoryStorage(), 8)
    of.run_next(square, sampler)
    of.close()
    assert not of.run_next(square, sampler) and of.ended and len(of.counted) == 1


def test_the_best_is_the_first_of_equals() -> None:
    of = slots(MemoryStorage(), 4, planned=[{"x": 0.5}, {"x": -0.25}, {"x": 0.25}])
    run_all(of)
    best, values = of.best(of.counted), [trial.value for trial in of.counted]
    assert best is not None and best.number == values.index(min(values))


def test_an_attribute_keeps_its_first_value() -> None:
    of = slots(MemoryStorage())
    assert of.keep("told", {"a": 1}) == {"a": 1} == of.keep("told", {"a": 2})


def test_a_process_that_waits_for_the_lock_can_be_stopped(tmp_path: Path) -> None:
    """Another command in the folder may have been suspended amid its own."""
    of = slots(DatabaseStorage(tmp_path))
    with contextlib.ExitStack() as other:
        other.enter_context(exclusive(tmp_path, CLAIM))
        stop = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        end = threading.Timer(600, other.close)  # or the test would wait for good
        end.start()
        with pytest.raises(KeyboardInterrupt):
            stop.start()  # here, so that the signal cannot come before the test expects it
            of.run_next(square, sampler)
        assert end.is_alive()
        end.cancel(), end.join()
    assert not of.study.trials and len(run_all(of)) == 4


RACE = """
import os, sys, time
from pathlib import Path
import optuna
from mil_toolkit.search.slots import Slots
from mil_toolkit.search.storage import DatabaseStorage
others = 0
while others < 3 and os.fork():  # four processes, for one import
    others += 1
of = Slots(DatabaseStorage(Path(sys.argv[1])), "final", 40, False, optuna.pruners.NopPruner())
print("ready", flush=True)
os.read(0, 1)
def objective(running):
    time.sleep(0.002)
    return running.trial.suggest_float("x", 0, 1)
while of.run_next(objective, lambda seed: optuna.samplers.RandomSampler(seed=seed)): pass
if others == 3:  # the parent of the other processes
    sys.exit(any(os.wait()[1] for _ in range(3)))
"""


def test_processes_that_race_share_the_slots_exactly(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)], stdin=-1, stdout=-1) as process:
        assert process.stdout and [process.stdout.readline() for _ in range(4)] == 4 * [b"ready\n"]
        assert process.communicate(b"1234")[0] == b"" and process.returncode == 0
    of = slots(DatabaseStorage(tmp_path), 40)
    assert Counter(trial.user_attrs[SLOT] for trial in of.study.trials) == Counter(range(40)) and of.ended


# Hyperband.


def curve(running: RunningTrial) -> float:
    x = running.trial.suggest_float("x", -1, 1)
    for epoch in range(1, 28):
        running.report(epoch, x**2 + 1 / epoch)
    return x**2


def test_hyperband_is_not_affected_by_interruptions() -> None:
    def states(stops: bool) -> list[tuple[object, str]]:
        storage = MemoryStorage()
        for _ in range(30):
            of = Slots(storage, "final", 30, False, SlotHyperband(min_resource=1, max_resource=27))
            if stops and len(of.counted) % 4 == 1:
                with pytest.raises(KeyboardInterrupt):
                    of.run_next(broken, sampler)
            of.run_next(curve, sampler)
        return [(trial.parameters["x"], trial.state) for trial in of.counted]

    def broken(running: RunningTrial) -> float:
        running.trial.report(running.trial.suggest_float("x", -1, 1) - 5, 1)
        running.trial.should_prune()
        raise KeyboardInterrupt

    undisturbed = states(stops=False)
    assert len({state for _, state in undisturbed}) == 2
    assert states(stops=True) == undisturbed


# Storages that cannot be used.


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2:hunter2@host/db",
        "postgresql://me:hunter2@host:hunter2/db",
        "me:hunter2@host",
        "mysql://me:hunter2@host/db",
        "sqlite:///hunter2.db",
        "postgresql://me:hunter2@127.0.0.1:9/db",
        "postgresql://127.0.0.1:9/db?password=hunter2",
    ],
)
def test_a_password_is_never_printed(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--storage|cannot be used") as caught:
        DatabaseStorage(tmp_path, url)
    assert "hunter2" not in str(caught.value)


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"optuna\.db is not an SQLite database"):
        DatabaseStorage(tmp_path)


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE studies", "CREATE UNIQUE INDEX", "INSERT INTO alembic_version"]
)
def test_a_stop_while_the_tables_are_made_leaves_none(statement: str, tmp_path: Path) -> None:
    """Without the index of names a search would be begun anew by each run, its trials forgotten."""

    def stop(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if statement in text:
            raise KeyboardInterrupt

    storages._empty_database.cache_clear()  # otherwise no statement is executed
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            DatabaseStorage(tmp_path)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", stop)
    run_all(slots(DatabaseStorage(tmp_path)))
    assert len(slots(DatabaseStorage(tmp_path)).counted) == 4


@pytest.mark.parametrize("lock", ["immediate", "exclusive"])
def test_a_file_that_others_keep_locked_is_told(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the end of a trial, whose slot is free again."""
    monkeypatch.setattr(storages, "PATIENCE", 0.1)
    storage = DatabaseStorage(tmp_path)
    of = slots(storage)
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)) as other:

        def objective(*_: object) -> float:
            other.execute(f"begin {lock}")
            return 1.0

        with (
            pytest.raises(UsageError, match=r"optuna\.db cannot be used: .*database is locked"),
            storage.errors_explained(),
        ):
            of.run_next(objective, sampler)
    of = slots(DatabaseStorage(tmp_path))
    of.fail_running()
    assert not of.counted and len(run_all(of)) == 4


def test_a_trial_that_others_gave_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """However late it falls silent: another one has run its slot."""
    storage = MemoryStorage()
    of = slots(storage)

    def objective(running: RunningTrial) -> float:
        storage.optuna.set_trial_state_values(running.trial._trial_id, TrialState.FAIL)
        return 1.0

    assert of.run_next(objective, sampler) and len(run_all(of)) == 4
    assert "Trial 0 sent no sign of life for so long" in caplog.text
