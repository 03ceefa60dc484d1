"""One process's part in running a study: the trials of every search, and their conclusions."""

import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.files import remove_dead_temporaries
from mil_toolkit.core.records import to_json
from mil_toolkit.core.seeds import derive_seed, trial_path
from mil_toolkit.search.rounds import Ending, RoundSlots
from mil_toolkit.search.samplers import PRUNERS, SAMPLERS, Sampler
from mil_toolkit.search.storage import Storage
from mil_toolkit.search.trials import FinishedTrial, RunningTrial
from mil_toolkit.study.conclusion import conclude, is_concluded
from mil_toolkit.study.description import refuse_other, with_defaults
from mil_toolkit.study.plan import Search
from mil_toolkit.study.progress import Progress
from mil_toolkit.study.remaining import SearchNote
from mil_toolkit.study.tracker import Tracker
from mil_toolkit.study.trial import evaluate, evaluate_together
from mil_toolkit.study.workspace import LatestInputs, Workspace

POLL = 1.0  # seconds between two looks at what processes of other commands do


class SearchRun:
    """One search within this process.

    timeout: seconds from the first look at the search, after which no more of its trials begin
    """

    def __init__(
        self,
        workspace: Workspace,
        search: Search,
        storage: Storage,
        tracker: Tracker,
        inputs: LatestInputs,
        timeout: float | None = None,
    ):
        self.workspace, self.search, self.storage = workspace, search, storage
        self.tracker, self.inputs, self.timeout = tracker, inputs, timeout
        self._deadline: float | None = None
        self._latest: list[int] = []  # numbers of the trials that this process ran last

    @cached_property
    def slots(self) -> RoundSlots:
        """The search's trials; raises DataError where the storage holds another study under this name."""
        config = self.workspace.config
        epochs = max(config.epochs)
        planned = self.workspace.space.planned(config.sampler)
        count = trials_each(self.workspace)
        higher = self.workspace.study.outcome.scoring.metrics[config.objective].higher_is_better
        pruner = PRUNERS[config.pruner](epochs)
        slots = RoundSlots(self.storage, self.search.name, count, higher, pruner, planned)
        identity = to_json(self.workspace.study.description)
        assert isinstance(identity, dict)
        identity["splits"] = self.search.digest
        refuse_other(self.storage, with_defaults(slots.keep("study", identity)), identity)
        slots.check(self.workspace.space)
        return slots

    @property
    def concluded(self) -> bool:
        """Whether the search has ended."""
        return is_concluded(self.workspace.study, self.search)

    def advance(self, progress: Progress) -> bool:
        """Run all trials that can begin, conclude the search if none is left; return whether it ended."""
        seconds = None
        if not self.concluded:
            progress(self._note())
            while self._run_next(progress):
                pass
            begun = time.monotonic()
            if not self.slots.ended or not conclude(self.workspace, self.search, self.slots, self.inputs):
                return False
            seconds = time.monotonic() - begun
        progress(SearchNote(self.search.name, os.getpid(), seconds=seconds, ended=True))
        self.inputs.release()
        return True

    def _run_next(self, progress: Progress) -> bool:
        """Run the next trial, or the next round of trials; return whether there was one."""
        begun, self._latest = time.monotonic(), []
        if not (self._in_time() and self._run_some()):
            return False
        seconds = (time.monotonic() - begun) / max(1, len(self._latest))
        for note in self._notes(seconds) if self._latest else [self._note()]:
            progress(note)
        return True

    def _run_some(self) -> bool:
        together = self.workspace.config.together
        if together == 1:
            return self.slots.run_next(self._evaluate, self._sampler)
        self._latest = self.slots.run_round(together, self._suggest, self._evaluate_round, self._sampler)
        return bool(self._latest)

    def _note(self) -> SearchNote:
        """Return a note that the search begins, or goes on."""
        trials = self.slots.counted
        return SearchNote(self.search.name, os.getpid(), len(trials), self._best_of(trials))

    def _notes(self, seconds: float) -> Iterator[SearchNote]:
        """Yield a note of each of the latest trials; seconds: that each of them took."""
        trials = self.slots.counted
        reported = {trial.number: trial.reported for trial in trials}
        best, before = self._best_of(trials), len(trials) - len(self._latest)
        for count, number in enumerate(self._latest, before + 1):
            epochs = reported.get(number, 0)
            yield SearchNote(self.search.name, os.getpid(), count, best, seconds, epochs)

    def _best_of(self, trials: Sequence[FinishedTrial]) -> float | None:
        best = self.slots.best(trials)
        return None if best is None else best.value

    def _suggest(self, trial: RunningTrial) -> HeadConfig:
        return trial.suggest(self.workspace.space)

    def _evaluate(self, trial: RunningTrial) -> float:
        self._latest = [trial.number]
        return evaluate(self.workspace, self.search, self.inputs.of(self.search), self.tracker, trial)

    def _evaluate_round(self, trials: Sequence[RunningTrial]) -> list[Ending]:
        inputs = self.inputs.of(self.search)
        return evaluate_together(self.workspace, self.search, inputs, self.tracker, trials)

    def _sampler(self, number: int) -> Sampler:
        # It depends on the slot only, and not on how often the study was interrupted.
        seed = derive_seed(*trial_path(self.workspace.config.seed, self.search.path, number))
        return SAMPLERS[self.workspace.config.sampler](seed)

    def _in_time(self) -> bool:
        """Return whether trials may begin; close the search after the time limit if a trial is complete."""
        if self.timeout is None:
            return True
        if self._deadline is None:
            self._deadline = time.monotonic() + self.timeout
        if time.monotonic() < self._deadline or not self.slots.best(self.slots.counted):
            return True
        self.slots.close()
        return False


def trials_each(workspace: Workspace) -> int:
    """Return the number of trials of each search: a grid search has no more than its grid has points."""
    config = workspace.config
    if config.sampler != "grid":
        return config.trials
    return min(config.trials, len(workspace.space.planned(config.sampler)))


def search_runs(
    workspace: Workspace,
    searches: Sequence[Search],
    storage: Storage,
    tracker: Tracker,
    timeout: float | None = None,
) -> list[SearchRun]:
    """Return the runs of some searches in one process."""
    inputs = LatestInputs(workspace)
    return [SearchRun(workspace, search, storage, tracker, inputs, timeout) for search in searches]


def recover(run: SearchRun) -> None:
    """Clear away what dead processes left: temporary files and, in an embedded storage, running trials.

    Nobody else runs trials of the search in an embedded storage, since this command holds the study folder's
    lock and gives the search to one process at a time.
    """
    folder = run.workspace.study.search_folder(run.search)
    for path in (folder.path, folder.epochs(0).parent):
        remove_dead_temporaries(path)
    if not (run.storage.shared or run.concluded):
        run.slots.fail_running()


def run_searches(runs: Sequence[SearchRun], progress: Progress, wait: bool = True) -> None:
    """Run what is left of every search; wait: also for trials that other processes are running."""
    left = _unfinished(runs, progress)
    while left and wait:
        time.sleep(POLL)
        left = _unfinished(left, progress)


def _unfinished(runs: Sequence[SearchRun], progress: Progress) -> list[SearchRun]:
    return [run for run in runs if not run.advance(progress)]
