"""Progress of a study: a bar over its trials, and an estimate of the time that they take."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tqdm import tqdm

from mil_toolkit.search.trials import FinishedTrial, durations

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Receives the progress of a run of searches; waits: whether it still needs the trials."""

    @property
    def waits(self) -> bool: ...

    def trials(self, search: str, trials: Sequence[FinishedTrial], best: FinishedTrial | None) -> None:
        """Take the trials of a search that count so far, and the best of them."""

    def concluded(self, search: str) -> None:
        """Take note that a search has ended, so that none of its trials is left."""


class NoProgress:
    """Shows nothing."""

    waits = False

    def trials(self, search: str, trials: Sequence[FinishedTrial], best: FinishedTrial | None) -> None:
        """Do nothing."""

    def concluded(self, search: str) -> None:
        """Do nothing."""


class TrialBar:
    """A progress bar over all trials of a study; after the first trial it logs how long all will take.

    trials_each: of each search; searches, workers: how many; begun: when this command began
    """

    def __init__(self, trials_each: int, searches: int, workers: int, begun: datetime):
        self.trials_each, self.total, self.workers = trials_each, trials_each * searches, workers
        self.begun = begun
        self.bar = tqdm(total=self.total, desc="trials", unit="trial", disable=None)
        self._done: dict[str, int] = {}  # trials of each search
        self._estimated = False

    @property
    def waits(self) -> bool:
        """Whether there is still something to show or to log."""
        return not (self.bar.disable and self._estimated)

    def trials(self, search: str, trials: Sequence[FinishedTrial], best: FinishedTrial | None) -> None:
        """Update the bar and, after the first trial of this command, log the estimate."""
        self._done[search] = len(trials)
        self.bar.update(sum(self._done.values()) - self.bar.n)
        if best is not None:
            self.bar.set_postfix({"best": f"{best.value:.4f}"})
        if not self._estimated and (seconds := durations(trials, self.begun)):
            self._estimate(seconds[0])

    def concluded(self, search: str) -> None:
        """Count all trials of a search as done, also where a time limit ended it early."""
        self._done[search] = self.trials_each

    def _estimate(self, seconds: float) -> None:
        self._estimated = True
        left = (self.total - sum(self._done.values())) * seconds / self.workers
        message = "The first trial took %.1f s; %d in all: about %.0f min."
        logger.info(message, seconds, self.total, left / 60)

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()
