"""Progress of a study: one bar over the trials of all searches, with the remaining time."""

import logging
import time
from collections.abc import Callable

from tqdm import tqdm

from mil_toolkit.core.text import count_of, duration_words
from mil_toolkit.core.verbosity import bars_disabled
from mil_toolkit.study.remaining import RemainingTime, SearchNote

Progress = Callable[[SearchNote], None]
_LINE_SECONDS = 60  # between two lines of the log
_LINE_SHARE = 0.05  # of all trials that end between two lines of the log
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

logger = logging.getLogger(__name__)


def no_progress(note: SearchNote) -> None:
    """Ignore a note."""


class StudyBar:
    """A progress bar over all trials of a study; without a terminal, a line of the log now and then."""

    def __init__(self, remaining: RemainingTime, clock: Callable[[], float] = time.monotonic):
        self.remaining, self._clock = remaining, clock
        self._seconds: list[float] = []  # of the trials of this command
        self._best: float | None = None
        self._line: tuple[float, int] | None = None  # time of the last line, and trials done by then
        self._begun = clock()
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
        if self.bar.disable and left is not None and self._is_time():
            self._line = self._clock(), self.remaining.done
            elapsed, side = duration_words(self._clock() - self._begun), ""
            if self.remaining.processes > 1:
                side = f", {self.remaining.processes} searches at once"
            message = "%d of %s after %s: about %s left%s."
            total = count_of(self.remaining.total, "trial")
            logger.info(message, self.remaining.done, total, elapsed, duration_words(left), side)

    def _words(self, left: float | None) -> list[str]:
        best = [] if self._best is None else [f"best {self._best:.4f}"]
        return best if left is None else [*best, f"about {duration_words(left)} left"]

    def _is_time(self) -> bool:
        """Return whether a line of the log is due."""
        if self.remaining.done == self.remaining.total:
            return False
        if self._line is None:
            return True
        then, done = self._line
        ended = self.remaining.done - done
        return self._clock() - then >= _LINE_SECONDS and ended >= _LINE_SHARE * self.remaining.total

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()
