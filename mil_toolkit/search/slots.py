"""`Storage` and `Slots`: a search has so many trials, whichever processes run them and however those end."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.core.processes import stops_deferred
from mil_toolkit.search.storage import Storage

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
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
