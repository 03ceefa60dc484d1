"""Progress of a study: one bar over the trials of all searches, with the remaining time."""

import logging
import time
from collections.abc import Callable

from tqdm import tqdm

from mil_toolkit.core.progress import LineTimes, line_level, progress_words
from mil_toolkit.core.text import count_of, duration_words
from mil_toolkit.core.verbosity import bars_disabled
from mil_toolkit.study.remaining import RemainingTime, SearchNote

Progress = Callable[[SearchNote], None]
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

logger = logging.getLogger(__name__)


def no_progress(note: SearchNote) -> None:
    """Ignore a note."""


class StudyBar:
    """A progress bar over all trials of a study; without a terminal, a line of the log now and then."""

    def __init__(self, remaining: RemainingTime, clock: Callable[[], float] = time.monotonic):
        self.remaining, self._lines = remaining, LineTimes(clock)
        self._seconds: list[float] = []  # of the trials of this command
        self._best: float | None = None
        self.bar = tqdm(total=remaining.total, desc="trials", bar_format=_BAR, disable=bars_disabled())

    @property
    def seconds_per_trial(self) -> float:
        """Mean duration of the trials of this command; 0 where there were none."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def __call__(self, note: SearchNote) -> None:
        """Take a note of a process that runs a search."""
        self.remaining.take(note)
        if note.seconds is not None and not note.ended:
            self._seconds.append(note.seconds)
        self._best = note.best if note.best is not None else self._best
        self.show()

    def show(self) -> None:
        """Show what has been done, and what is left at this moment."""
        left = self.remaining.seconds()
        self.bar.set_postfix_str(", ".join(self._words(left)), refresh=False)
        self.bar.n = self.remaining.done
        self.bar.refresh()
        if 0 < self.remaining.done < self.remaining.total and self._lines.is_due():
            total, processes = count_of(self.remaining.total, "trial"), self.remaining.processes
            words = progress_words(self.remaining.done, total, self._lines.elapsed, left)
            side = f", {processes} searches at once" if processes > 1 else ""
            logger.log(line_level(self.bar), "%s%s.", words, side)

    def _words(self, left: float | None) -> list[str]:
        best = [] if self._best is None else [f"best {self._best:.4f}"]
        return best if left is None else [*best, f"about {duration_words(left)} left"]

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()
