"""`ProgressBar`: how much of a long task is done, and how long the rest will take."""

import logging
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

from mil_toolkit.core.text import count_of, duration_words
from mil_toolkit.core.verbosity import bars_disabled

_SECONDS = 30.0  # between two lines of the log, at least
_SHARE = 0.05  # of the time that has passed: between two lines of the log of a longer task
logger = logging.getLogger(__name__)


class LineTimes:
    """The times at which a long task is due to log a line, so that logs of long tasks stay short."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begun = self._latest = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the task began."""
        return self._clock() - self._begun

    def is_due(self) -> bool:
        """Return whether a line is due now; the next one is due after a while."""
        now = self._clock()
        if now - self._latest < max(_SECONDS, _SHARE * (now - self._begun)):
            return False
        self._latest = now
        return True


def progress_words(done: int, total: str, elapsed: float, left: float | None) -> str:
    """Return a line of the log; total: with its unit; left: seconds, None where there is no estimate yet.

    >>> progress_words(12, "40 trials", 300, 700)
    '12 of 40 trials after 5.0 min: about 12 min left'
    """
    rest = "" if left is None else f": about {duration_words(left)} left"
    return f"{done} of {total} after {duration_words(elapsed)}{rest}"


def line_level(bar: "tqdm[None]") -> int:
    """Return the level of the lines of a task: where its bar is shown, they are for the log file only."""
    return logging.INFO if bar.disable else logging.DEBUG


class ProgressBar:
    """A bar on a terminal; elsewhere, a line of the log now and then.

    unit, units: what is counted, one and many; task: what is done to them, the beginning of each line
    delay: seconds before which no bar is shown
    """

    def __init__(
        self,
        total: int,
        unit: str,
        task: str,
        *,
        units: str = "",
        delay: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._unit, self._units, self._task = total, unit, units, task
        self._done = self._before = 0
        self._lines = LineTimes(clock)
        self._bar = tqdm(total=total, desc=task, unit=f" {unit}", delay=delay, disable=bars_disabled())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, count: int) -> None:
        """Add to the total; a negative number where fewer are needed than expected."""
        self._total += count
        self._bar.total = self._total
        self._bar.refresh()

    def skip(self, count: int) -> None:
        """Count as done what an earlier process has done: it says nothing about the time that is left."""
        self._before += count
        if not self._bar.disable:
            self._bar.initial += count
        self.update(count)

    def update(self, count: int = 1) -> None:
        """Count as done."""
        self._done += count
        self._bar.update(count)
        if self._done < self._total and self._lines.is_due():
            total = count_of(self._total, self._unit, self._units)
            words = progress_words(self._done, total, self._lines.elapsed, self._left())
            logger.log(line_level(self._bar), "%s: %s.", self._task, words)

    def _left(self) -> float | None:
        """Return the seconds that the rest will take at the speed so far."""
        done = self._done - self._before
        return self._lines.elapsed / done * (self._total - self._done) if done else None

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
