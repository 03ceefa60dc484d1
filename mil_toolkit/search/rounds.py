"""`RoundSlots`: the trials of a search in rounds, whose trials are proposed together and end together."""

from collections.abc import Callable, Sequence

from optuna.trial import TrialState

from mil_toolkit.config.tunable import Value
from mil_toolkit.core.processes import defer_stop_signals
from mil_toolkit.search.internals import SLOT, hide_from_pruner
from mil_toolkit.search.slots import CLOSED, SamplerOf, Slots
from mil_toolkit.search.space import Space
from mil_toolkit.search.stored_trials import check_proposed, unreadable_reported
from mil_toolkit.search.trials import NoValue, Pruned, RunningTrial

PROPOSED = "proposed"  # user attribute of a search: the parameters of the trials of its last round, by slot
Ending = float | Pruned | NoValue  # a trial's value, or why it has none
RoundObjective = Callable[[Sequence[RunningTrial]], Sequence[Ending]]
Propose = Callable[[RunningTrial], object]  # asks a trial for its hyperparameters


class RoundSlots(Slots):
    """The trials of a search in a storage that only one process at a time uses.

    The trials of a round are proposed one after the other, each while those before it are running, and what
    was proposed is stored before any of them is trained. The pruner compares them with trials of earlier
    rounds only. So what a trial is, and what it is compared with, do not depend on interruptions; afterwards,
    trials of the round that have not ended are run again.
    """

    def check(self, space: Space) -> None:
        """Raise DataError where a search in this space cannot have stored or proposed the trials."""
        super().check(space)
        with unreadable_reported(self.storage):
            check_proposed(self.storage, self._proposed, space)

    def run_round(
        self, size: int, propose: Propose, objective: RoundObjective, sampler: SamplerOf
    ) -> list[int]:
        """Run the free trials of the lowest round that has any, and return their slots; none if none is free.

        size: trials of a round; objective: returns the ending of each trial; sampler: returns that of a slot

        An exception that `objective` raises fails all trials of the round, whose slots are free again.
        """
        with self.storage.exclusive() as release, defer_stop_signals() as check:
            slots = self._free_of_round(size)
            trials = [self._take(slot, propose, sampler, check) for slot in slots]
            if trials:
                self.study.set_user_attr(PROPOSED, {str(each.number): each.trial.params for each in trials})
            for running in trials:
                hide_from_pruner(running.trial, range(slots[0] - slots[0] % size, self.count))
            release()
            if trials:
                self._run(trials, objective)
        return slots

    @property
    def _proposed(self) -> dict[str, dict[str, Value]]:
        proposed: dict[str, dict[str, Value]] = self.study.user_attrs.get(PROPOSED, {})
        return proposed

    def _parameters(self, slot: int) -> dict[str, Value]:
        return self._proposed.get(str(slot)) or super()._parameters(slot)

    def _free_of_round(self, size: int) -> list[int]:
        """Return the free slots of the lowest round that has any."""
        trials = self._trials()
        first = None if CLOSED in self.study.user_attrs else self._free(trials)
        if first is None:
            return []
        taken = self._taken(trials)
        return [
            slot for slot in range(first, min(first - first % size + size, self.count)) if slot not in taken
        ]

    def _take(
        self, slot: int, propose: Propose, sampler: SamplerOf, check: Callable[[], None]
    ) -> RunningTrial:
        """Begin the trial of the lowest free slot, and propose its hyperparameters."""
        while True:
            self._enqueue()
            self.study.sampler = sampler(slot)
            running = RunningTrial(self.study.ask(), check)
            if running.trial.user_attrs.get(SLOT) == slot:
                propose(running)
                return running
            self.study.tell(running.trial, state=TrialState.FAIL)  # such as one enqueued in the dashboard

    def _run(self, trials: Sequence[RunningTrial], objective: RoundObjective) -> None:
        try:
            endings = objective(trials)
        except BaseException:
            for running in trials:
                self.study.tell(running.trial, state=TrialState.FAIL)
            raise
        for running, ending in zip(trials, endings, strict=True):
            self._end(running, ending)

    def _end(self, running: RunningTrial, ending: Ending) -> None:
        if isinstance(ending, Pruned):
            self.study.tell(running.trial, state=TrialState.PRUNED)
        elif isinstance(ending, NoValue):
            running.record_loss(str(ending))
            self.study.tell(running.trial, state=TrialState.FAIL)
        else:
            self.study.tell(running.trial, ending)
