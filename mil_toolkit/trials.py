# Floor 3: the trials of a search in Optuna's storage: slots, claims, recovery of what died.
"""`Storage` and `Slots`: a search has so many trials, whichever processes run them and however those end."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mil_toolkit.errors import UsageError, import_extra
from mil_toolkit.files import CLAIM, digest, exclusive, publish
from mil_toolkit.workers import stops_deferred

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
HEARTBEAT, GRACE = 15, 120  # seconds: a trial on a shared storage that was silent for longer is held for dead
PATIENCE = 120  # seconds that SQLite waits for another writer
DATABASE = "optuna.db"
NUMBER = "number"  # attribute of a trial: its slot
LOST = "lost"  # attribute of a trial that ended without a value: why
CLOSED = "closed"  # attribute of a search that begins no more trials

Objective = Callable[[optuna.Trial, Callable[[], None]], float]

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings hold tracebacks of what we tell ourselves


class NoValue(Exception):
    """A trial came to its end without a value: its slot is used up."""


class _NoSlot(Exception):
    """A trial was asked for by someone else: it is told FAIL unrun."""


class Storage:
    """Where the searches of a study keep their trials.

    Embedded (SQLite in the study folder): for one command with its workers, who hold the folder's lock, so that what
    others left running is dead. Shared (PostgreSQL): for any number of commands on any number of machines; a trial
    is dead whose process was silent for GRACE seconds. Raises UsageError where it cannot be reached.
    """

    def __init__(self, folder: Path, url: str | None = None):
        self.folder, self.shared = folder.resolve(), url is not None
        self._engines: list[sqlalchemy.Engine] = []
        self._path = folder / DATABASE
        self._url = sqlalchemy.URL.create("sqlite", database=str(self._path))
        if url is not None:
            self._url = postgresql(url)
            self._engine = sqlalchemy.create_engine(self._url, pool_pre_ping=True)
            self._engines.append(self._engine)
        with self.told(), self.alone():  # or two processes would make the tables at once
            self.optuna = self._open()

    def __str__(self) -> str:
        """Where it is, without anything that may be secret."""
        if not self.shared:
            return str(self._url.database)
        return f"database {self._url.database!r} at {self._url.host or 'localhost'}"

    def _open(self) -> optuna.storages.BaseStorage:
        url = self._url.render_as_string(hide_password=False)
        kept = {"connect_args": {"timeout": PATIENCE}} if not self.shared else {"pool_pre_ping": True}
        beat, grace = (HEARTBEAT, GRACE) if self.shared else (None, None)
        if not (self.shared or self._path.exists()):
            publish(self._path, _empty_database())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = optuna.storages.RDBStorage(url, kept, heartbeat_interval=beat, grace_period=grace)
        self._engines.append(storage.engine)
        return storage

    def name_of(self, search: str) -> str:
        """A search's name in the storage: a shared one holds many studies, told apart by their folders' names."""
        return f"{self.folder.name}/{search}" if self.shared else search

    @contextlib.contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """Keep all other processes of the study, on whichever machine, from claiming; waits for one that does.

        Yields a function that lets go before the block ends.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(exclusive(self.folder, CLAIM, wait=True))
            if self.shared:
                connection = stack.enter_context(self._engine.begin())
                # A machine that falls silent just here must not stop the others for good.
                connection.execute(sqlalchemy.text("set local idle_in_transaction_session_timeout = '60s'"))
                key = int(digest(self.folder.name.encode())[:15], 16)
                connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(:key)"), {"key": key})
            yield stack.close

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Make a database's error one that says what to do; connections are let go at the end."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            advice = "What was complete stays: see to it and run the same command again."
            raise UsageError(f"{self} cannot be used: {_reason(error)}. {advice}") from None
        finally:
            for engine in self._engines:
                engine.dispose()


class InMemory(Storage):
    """For searches that nobody goes on with."""

    def __init__(self) -> None:
        self.shared = False
        self.optuna = optuna.storages.InMemoryStorage()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Callable[[], None]]:
        """There are no others."""
        yield lambda: None


def _empty_database() -> bytes:
    """SQLite's file before the first trial, to be published whole.

    Where a stop left it without the index that keeps names unique, each run would begin all searches anew.
    """
    with contextlib.closing(optuna.storages.RDBStorage("sqlite://").engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        return bytes(driver.serialize())


def postgresql(text: str) -> sqlalchemy.URL:
    """The address of a shared storage; raises UsageError where it is none, or psycopg is missing."""
    form = "postgresql://USER@HOST/DATABASE"
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # whose message may hold a part of the password
        raise UsageError(f"--storage is not of the form {form}.") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(
            f"--storage takes {form}, not {url.drivername}. Without it the study folder keeps the trials itself."
        )
    import_extra("psycopg", "postgres", "--storage")
    return url.set(drivername="postgresql+psycopg")


def _reason(error: BaseException) -> str:
    """What the driver said; SQLAlchemy's own text also holds the statement with its values."""
    driver = getattr(error, "orig", None)
    if driver is None and error.__cause__ is not None:
        return _reason(error.__cause__)
    return str(error if driver is None else driver).strip().partition("\n")[0].rstrip(".")


class Slots:
    """The trials of one search: `count` slots, each of which is run to its end once.

    One process at a time enqueues the lowest free slot and asks for it: Optuna's own claim of a waiting trial is not
    atomic on SQLite. So a slot whose process died is run again in its own place, before any later one, and what a
    sampler or a pruner sees does not depend on stops.

    search: its name; planned: parameters of the first slots; pruner: of its epochs
    """

    def __init__(
        self,
        storage: Storage,
        search: str,
        count: int,
        higher_is_better: bool,
        pruner: optuna.pruners.BasePruner,
        planned: Sequence[Mapping[str, Any]] = (),
    ):
        self.storage, self.count, self.planned = storage, count, planned
        with storage.alone():
            self.study = optuna.create_study(
                storage=storage.optuna,
                study_name=storage.name_of(search),
                direction="maximize" if higher_is_better else "minimize",
                pruner=pruner,
                load_if_exists=True,
            )

    def keep(self, name: str, value: Any) -> Any:
        """What an attribute of the search is; where there is none yet, it becomes `value`, of JSON."""
        with self.storage.alone():
            if name not in self.study.user_attrs:
                self.study.set_user_attr(name, value)
        return self.study.user_attrs[name]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if NUMBER in trial.user_attrs]

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials that came to their end, in the order of their slots."""
        return sorted(filter(_counts, self._trials()), key=_number)

    def best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The complete trial with the best value among some, the first of several."""
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        pick = max if self.study.direction is optuna.study.StudyDirection.MAXIMIZE else min
        return pick(complete, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def ended(self) -> bool:
        """Whether no trial is left, neither to begin nor running."""
        if CLOSED in self.study.user_attrs:
            return not self._trials(TrialState.RUNNING)
        return len(self.counted) == self.count

    def close(self) -> None:
        """Begin no more trials."""
        self.keep(CLOSED, True)

    def fail_running(self) -> None:
        """Give up what is running, whose processes have died: its slots are free again."""
        for trial in self._trials(TrialState.RUNNING):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def run_next(self, objective: Objective, sampler: Callable[[int], optuna.samplers.BaseSampler]) -> bool:
        """Run the trial of the lowest free slot; False where none is free.

        objective(trial, check): its value; raises NoValue where it has none, and calls `check` where it can be stopped
        sampler(number): the slot's own
        """
        with self.storage.alone() as let_go, stops_deferred() as check:  # so that what waits can be stopped
            number = self._enqueue()
            if number is None:
                return False

            def run(trial: optuna.Trial) -> float:
                let_go()
                if trial.user_attrs.get(NUMBER) != number:
                    raise _NoSlot
                try:
                    return objective(trial, check)
                except NoValue as reason:
                    trial.set_user_attr(LOST, str(reason))
                    raise

            self.study.sampler = sampler(number)
            self._optimize(run, number)
        return True

    def _optimize(self, run: Callable[[optuna.Trial], float], number: int) -> None:
        try:
            self.study.optimize(run, n_trials=1, catch=(NoValue, _NoSlot))
        except (AssertionError, UnboundLocalError, ValueError) as error:
            first = _stumbled_over(error)
            if not str(first).startswith("Cannot tell a"):
                raise first from first.__cause__
            logger.warning("Trial %d was silent for so long that another process ran it.", number)

    def _enqueue(self) -> int | None:
        """The slot that waits to be asked for, the lowest free one; None where there is none."""
        if CLOSED in self.study.user_attrs:
            return None
        trials = self._trials()
        if not any(
            trial.state is TrialState.WAITING for trial in trials
        ):  # of a process that died before it asked
            free = self._free(trials)
            if free is None:
                self._fail_silent()  # as Optuna does before a trial, but none begins
                free = self._free(self._trials())
            if free is None:
                return None
            self.study.enqueue_trial(self._parameters(free), {NUMBER: free})
        waiting = self._trials(TrialState.WAITING)[0]
        if isinstance(self.storage.optuna, optuna.storages.RDBStorage) and self.storage.shared:
            # One that dies before its first heartbeat would never fall silent.
            self.storage.optuna.record_heartbeat(waiting._trial_id)
        return _number(waiting)

    def _free(self, trials: Sequence[FrozenTrial]) -> int | None:
        taken = {_number(each) for each in trials if _counts(each) or each.state is TrialState.RUNNING}
        return next((number for number in range(self.count) if number not in taken), None)

    def _parameters(self, number: int) -> dict[str, Any]:
        return dict(self.planned[number]) if number < len(self.planned) else {}

    def _fail_silent(self) -> None:
        if self.storage.shared:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)


def _stumbled_over(error: Exception) -> BaseException:
    """Why the storage could not be told a trial's end, over which optuna stumbles; any other error is itself."""
    stumbled = isinstance(error, UnboundLocalError) or str(error) == "Should not reach."
    return error.__context__ if stumbled and error.__context__ else error


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial came to its end, and did not die with its process."""
    return trial.state in FINISHED or LOST in trial.user_attrs


def _number(trial: FrozenTrial) -> int:
    return int(trial.user_attrs[NUMBER])


def durations(trials: Sequence[FrozenTrial], since: datetime) -> list[float]:
    """Seconds that each of some trials took that began since."""
    spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
    return [(end - begun).total_seconds() for begun, end in spans if begun and end and begun >= since]


class Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband whose brackets hang on a trial's slot and leave out what failed, so that stops change nothing."""

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if trial.state is TrialState.FAIL:
            return -1
        if not self._pruners:
            self._try_initialization(study)
        slot = copy.copy(trial)
        slot.number = trial.user_attrs.get(NUMBER, trial.number)
        return int(super()._get_bracket_id(study, slot))
