"""`Slots`: the fixed number of trials of a search, whichever processes run them and however these end."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.config.tunable import Value
from mil_toolkit.core.processes import defer_stop_signals
from mil_toolkit.core.records import Json
from mil_toolkit.search.internals import SLOT, is_already_finished, original_error, record_heartbeat
from mil_toolkit.search.space import Space
from mil_toolkit.search.storage import Storage
from mil_toolkit.search.stored_trials import check_trials, unreadable_reported
from mil_toolkit.search.trials import FinishedTrial, NoValue, RunningTrial, counts, slot_of

CLOSED = "closed"  # user attribute of a search that begins no more trials
Objective = Callable[[RunningTrial], float]
SamplerOf = Callable[[int], optuna.samplers.BaseSampler]  # from a slot
logger = logging.getLogger(__name__)


class _NotMine(Exception):
    """Optuna handed out a trial that this process did not claim: fail it without running it."""


class Slots:
    """The trials of one search: `count` slots, each of which is run to its end exactly once.

    Optuna's own claim of a waiting trial is not atomic on SQLite. Therefore one process at a time enqueues
    the lowest free slot and takes it. A slot whose process died is run again in its own place, before any
    later one, so that what samplers and pruners see does not depend on interruptions.

    search: its name; planned: parameters of the first slots; pruner: decides from the values after each epoch
    """

    def __init__(
        self,
        storage: Storage,
        search: str,
        count: int,
        higher_is_better: bool,
        pruner: optuna.pruners.BasePruner,
        planned: Sequence[Mapping[str, Value]] = (),
    ):
        self.storage, self.count, self.planned = storage, count, planned
        with storage.exclusive(), unreadable_reported(storage):
            self.study = optuna.create_study(
                storage=storage.optuna,
                study_name=storage.name_of(search),
                direction="maximize" if higher_is_better else "minimize",
                pruner=pruner,
                load_if_exists=True,
            )

    def keep(self, name: str, value: Json) -> Json:
        """Set an attribute of the search unless it is already set, and return what it is."""
        with self.storage.exclusive(), unreadable_reported(self.storage):
            if name not in self.study.user_attrs:
                self.study.set_user_attr(name, value)
        kept: Json = self.study.user_attrs[name]
        return kept

    def check(self, space: Space) -> None:
        """Raise DataError where a search in this space cannot have stored the trials."""
        with unreadable_reported(self.storage):
            trials = self.study.get_trials(deepcopy=False)
            check_trials(self.storage, trials, self.count, space)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if SLOT in trial.user_attrs]

    @property
    def counted(self) -> list[FinishedTrial]:
        """The trials that used up their slots, in the order of the slots."""
        return [FinishedTrial.of(trial) for trial in sorted(filter(counts, self._trials()), key=slot_of)]

    def best(self, trials: Sequence[FinishedTrial]) -> FinishedTrial | None:
        """Return the complete trial with the best value, the first of equals; None where none is complete."""
        complete = [trial for trial in trials if trial.complete]
        pick = max if self.study.direction is optuna.study.StudyDirection.MAXIMIZE else min
        return pick(complete, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def ended(self) -> bool:
        """Whether no trial is left to begin and none is running."""
        if CLOSED in self.study.user_attrs:
            return not self._trials(TrialState.RUNNING)
        return len(self.counted) == self.count

    def close(self) -> None:
        """Begin no more trials."""
        self.keep(CLOSED, True)

    def fail_running(self) -> None:
        """Mark all running trials as failed, since their processes have died: their slots are free again."""
        for trial in self._trials(TrialState.RUNNING):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def run_next(self, objective: Objective, sampler: SamplerOf) -> bool:
        """Run the trial of the lowest free slot; return False where no slot is free.

        objective: returns the trial's value, or raises NoValue where it has none
        sampler: returns the sampler of a slot
        """
        # Signals are deferred once the lock is held: a process that waits for it can be stopped.
        with self.storage.exclusive() as release, defer_stop_signals() as check:
            slot = self._enqueue()
            if slot is None:
                return False

            def run(trial: optuna.Trial) -> float:
                release()
                if trial.user_attrs.get(SLOT) != slot:
                    raise _NotMine
                running = RunningTrial(trial, check)
                try:
                    return objective(running)
                except NoValue as reason:
                    running.record_loss(str(reason))
                    raise

            self.study.sampler = sampler(slot)
            self._optimize(run, slot)
        return True

    def _optimize(self, run: Callable[[optuna.Trial], float], slot: int) -> None:
        try:
            self.study.optimize(run, n_trials=1, catch=(NoValue, _NotMine))
        except (AssertionError, UnboundLocalError, ValueError) as error:
            original = original_error(error)
            if not is_already_finished(original):
                raise original from original.__cause__
            logger.warning("Trial %d sent no sign of life for so long that another process ran it.", slot)

    def _enqueue(self) -> int | None:
        """Return the slot to take next, enqueued unless it waits already; None where no slot is free."""
        if CLOSED in self.study.user_attrs:
            return None
        trials = self._trials()
        # A trial is already waiting where a process died between enqueuing and taking it.
        if not any(trial.state is TrialState.WAITING for trial in trials):
            free = self._free(trials)
            if free is None:
                self._fail_stale()  # Optuna does this whenever a trial begins, but here none begins
                free = self._free(self._trials())
            if free is None:
                return None
            self.study.enqueue_trial(self._parameters(free), {SLOT: free})
        waiting = self._trials(TrialState.WAITING)[0]
        if self.storage.shared:
            record_heartbeat(self.storage.optuna, waiting)
        return slot_of(waiting)

    def _free(self, trials: Sequence[FrozenTrial]) -> int | None:
        taken = self._taken(trials)
        return next((slot for slot in range(self.count) if slot not in taken), None)

    def _taken(self, trials: Sequence[FrozenTrial]) -> set[int]:
        return {slot_of(trial) for trial in trials if counts(trial) or trial.state is TrialState.RUNNING}

    def _parameters(self, slot: int) -> dict[str, Value]:
        return dict(self.planned[slot]) if slot < len(self.planned) else {}

    def _fail_stale(self) -> None:
        if self.storage.shared:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
