"""`RemainingTime`: how long the searches of a study will still take, from the trials so far."""

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mil_toolkit.config.study import StudyConfig

FIRST_ESTIMATE = 10  # trials of this command before which there is no estimate
_STARTUP = 5  # trials of a search that no pruner stops: they are the first values to compare with
# Expected numbers of epochs until trials have shown them, and how many trials such an expectation counts for.
_STARTUP_SHARE, _STARTUP_WEIGHT = 0.65, 3  # of the maximum, since training stops early
_LATER_SHARE = {"median": 0.3, "hyperband": 0.35, "none": 1.0}  # of the epochs of a startup trial
_LATER_WEIGHT = 10
_CHOSEN_SHARE = 0.5  # of a startup trial's epochs: the epochs of the chosen configuration


@dataclass(frozen=True)
class SearchNote:
    """A process's note that a search begins or has ended, or that one of its trials has.

    search: its name; process: the id of the process that runs it
    counted: trials of the search so far; best: the best value among them
    seconds: that the trial took or, with `ended`, what follows the trials; None where the search begins
    epochs: of the trial
    ended: whether the search has made its choice and predictions
    """

    search: str
    process: int
    counted: int = 0
    best: float | None = None
    seconds: float | None = None
    epochs: int = 0
    ended: bool = False


@dataclass
class _Trials:
    """Sums over trials; seconds: relative to the cost of their searches."""

    count: int = 0
    epochs: int = 0
    seconds: float = 0.0

    def add(self, epochs: int, seconds: float) -> None:
        """Add a trial."""
        self.count, self.epochs, self.seconds = self.count + 1, self.epochs + epochs, self.seconds + seconds


class Durations:
    """Expected seconds of the parts of a search, each relative to the search's cost.

    The seconds of an epoch and the number of epochs are estimated apart, because a pruned trial is as slow as
    any other in each of its epochs, but has fewer. The first trial of a search, which also computes the
    projections, and the first one of a process, which also loads libraries and compiles kernels, do not count
    for the seconds of an epoch.
    """

    def __init__(self, config: StudyConfig):
        self._config = config
        self._first: dict[bool, list[tuple[int, float]]] = {False: [], True: []}  # by: the process is new
        self._startup, self._later = _Trials(), _Trials()
        self._conclusions: list[float] = []

    def add_trial(self, number: int, epochs: int, seconds: float, new_process: bool) -> None:
        """Add a trial by its number within its search, from 0."""
        if number == 0 or new_process:
            self._first[new_process].append((epochs, seconds))
        else:
            (self._startup if number < _STARTUP else self._later).add(epochs, seconds)

    def add_conclusion(self, seconds: float) -> None:
        """Add what followed the trials of a search."""
        self._conclusions.append(seconds)

    def of_trials(self, begun: int, count: int) -> float:
        """Return the expected seconds of the trials from number `begun` to `count` of a search."""
        startup = max(0, min(_STARTUP, count) - begun)
        epochs = startup * self._startup_epochs + max(0, count - max(begun, _STARTUP)) * self._later_epochs
        return epochs * self._epoch + (self._setup if begun == 0 else 0.0)

    @property
    def of_conclusion(self) -> float:
        """The expected seconds of what follows the trials: all members train again."""
        if self._conclusions:
            return sum(self._conclusions) / len(self._conclusions)
        return (self._config.members + 1) * _CHOSEN_SHARE * self._startup_epochs * self._epoch

    @property
    def _epoch(self) -> float:
        epochs = self._startup.epochs + self._later.epochs
        if epochs:
            return (self._startup.seconds + self._later.seconds) / epochs
        return min((seconds / max(1, epochs) for epochs, seconds in self._all_first), default=0.0)

    @property
    def _all_first(self) -> list[tuple[int, float]]:
        return [*self._first[False], *self._first[True]]

    @property
    def _setup(self) -> float:
        """Seconds of a search's first trial beyond those of its epochs."""
        trials = self._first[False] or self._first[True]
        return max(0.0, min((seconds - epochs * self._epoch for epochs, seconds in trials), default=0.0))

    @property
    def _startup_epochs(self) -> float:
        expected = _STARTUP_SHARE * max(self._config.epochs)
        total = _STARTUP_WEIGHT * expected + self._startup.epochs
        return total / (_STARTUP_WEIGHT + self._startup.count)

    @property
    def _later_epochs(self) -> float:
        expected = _LATER_SHARE[self._config.pruner] * self._startup_epochs
        return (_LATER_WEIGHT * expected + self._later.epochs) / (_LATER_WEIGHT + self._later.count)


@dataclass
class _Search:
    """The state of a search; cost: of an epoch, relative to others; begun, heard: times of notes."""

    cost: float
    counted: int = 0
    begun: float | None = None
    heard: float = 0.0
    ended: bool = False


class RemainingTime:
    """Estimates the seconds until all searches have ended.

    trials: of each search; costs: of an epoch, by search, in the order in which the searches begin
    processes: searches at once; timeout: seconds after which a search begins no more trials
    """

    def __init__(
        self,
        config: StudyConfig,
        trials: int,
        costs: Mapping[str, float],
        processes: int = 1,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.trials, self.processes = trials, processes
        self._timeout, self._clock = timeout, clock
        self._searches = {name: _Search(cost) for name, cost in costs.items()}
        self._durations, self._seen, self._known = Durations(config), 0, set[int]()

    @property
    def done(self) -> int:
        """Trials that are not left to run, those of ended searches included."""
        return sum(self.trials if each.ended else each.counted for each in self._searches.values())

    @property
    def total(self) -> int:
        """Trials of all searches."""
        return self.trials * len(self._searches)

    def take(self, note: SearchNote) -> None:
        """Take a note of a process."""
        search, now = self._searches[note.search], self._clock()
        if note.seconds is None:
            search.begun = None if note.ended else now
        elif note.ended:
            self._durations.add_conclusion(note.seconds / search.cost)
        else:
            cold = note.process not in self._known
            self._durations.add_trial(note.counted - 1, note.epochs, note.seconds / search.cost, cold)
            self._known.add(note.process)
            self._seen += 1
        search.counted, search.heard, search.ended = max(search.counted, note.counted), now, note.ended

    def seconds(self) -> float | None:
        """Return the estimate; None before trial FIRST_ESTIMATE of this command."""
        if self._seen < FIRST_ESTIMATE:
            return None
        left = [search for search in self._searches.values() if not search.ended]
        free = [self._left(search) for search in left if search.begun is not None]
        free += [0.0] * (self.processes - len(free))
        heapq.heapify(free)
        for search in left:
            if search.begun is None:
                heapq.heappush(free, heapq.heappop(free) + self._left(search))
        return max(free, default=0.0)

    def _left(self, search: _Search) -> float:
        """Return the seconds that a search still takes."""
        trials = search.cost * self._durations.of_trials(search.counted, self.trials)
        now = self._clock()
        if self._timeout is not None:
            trials = min(trials, self._timeout - (0.0 if search.begun is None else now - search.begun))
        since = 0.0 if search.begun is None else now - search.heard
        return max(0.0, trials + search.cost * self._durations.of_conclusion - since)
