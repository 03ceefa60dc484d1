"""The announced time of a study, on simulated studies and a simulated clock."""

import contextlib
import heapq
import io
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.text import duration_words
from mil_toolkit.study.progress import StudyBar
from mil_toolkit.study.remaining import FIRST_ESTIMATE, RemainingTime, SearchNote

EPOCHS = 50


@dataclass
class Clock:
    """A clock that only the simulation moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Event:
    """A note of a simulated process; time: when it arrives, after the beginning of the study."""

    time: float
    note: SearchNote


def trial(number: int, pruner: str, source: random.Random) -> tuple[int, float]:
    """Return the epochs and the seconds of a trial, as on the lymphocytosis challenge on one core."""
    second_epoch = 0.07 * source.lognormvariate(0.0, 0.3)
    if number < 5 or pruner == "none":
        epochs = min(EPOCHS, max(13, round(source.gauss(34, 13))))
    else:
        epochs = 5 if source.random() < 0.55 else round(source.gauss(17, 3))
    return epochs, epochs * second_epoch


def study(costs: dict[str, float], trials: int, processes: int, pruner: str, seed: int) -> list[Event]:
    """Return the notes of a simulated study by time; every process takes the next search when it is free."""
    source, events = random.Random(seed), list[Event]()
    free = [(0.0, process) for process in range(processes)]
    warm = set[int]()
    for name, cost in costs.items():
        now, process = heapq.heappop(free)
        events.append(Event(now, SearchNote(name, process)))
        for number in range(trials):
            epochs, seconds = trial(number, pruner, source)
            seconds = cost * (seconds + (3.0 if number == 0 else 0.0)) + (4.0 if process not in warm else 0.0)
            warm.add(process)
            now += seconds
            events.append(Event(now, SearchNote(name, process, number + 1, 0.5, seconds, epochs)))
        conclusion = cost * source.uniform(4, 9)
        now += conclusion
        events.append(Event(now, SearchNote(name, process, seconds=conclusion, ended=True)))
        heapq.heappush(free, (now, process))
    return sorted(events, key=lambda event: event.time)


def estimates(
    events: list[Event], remaining: RemainingTime, clock: Clock
) -> Iterator[tuple[int, float, float | None]]:
    """Yield after each note: the trials that have ended, the seconds really left, and the estimate."""
    begun, end, ended = clock.now, events[-1].time, 0
    for event in events:
        clock.now = begun + event.time
        remaining.take(event.note)
        ended += event.note.seconds is not None and not event.note.ended
        yield ended, end - event.time, remaining.seconds()


NESTED = {"final": 1.0, **{f"repeat1-fold{fold}": 0.8 for fold in range(1, 6)}}


def remaining_time(costs: dict[str, float], clock: Clock, **more: Any) -> RemainingTime:
    config = StudyConfig(pruner=more.pop("pruner", "median"), settings={"epochs": (EPOCHS,)})
    return RemainingTime(config, more.pop("trials", 50), costs, clock=clock, **more)


@pytest.mark.parametrize("pruner", ["median", "none"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_from_the_tenth_trial_on_the_estimate_is_right_within_a_factor(processes: int, pruner: str) -> None:
    """Half of the time within 1.2, and always within 1.5 until the last tenth, when single trials matter."""
    factors = []
    for seed in range(3):
        clock = Clock()
        remaining = remaining_time(NESTED, clock, processes=processes, pruner=pruner)
        events = study(NESTED, 50, processes, pruner, seed)
        for ended, truth, estimate in estimates(events, remaining, clock):
            assert (estimate is None) == (ended < FIRST_ESTIMATE)
            if estimate is not None and truth > 0.1 * events[-1].time:
                factors.append(max(estimate / truth, truth / estimate))
    assert max(factors) < 1.5 and statistics.median(factors) < 1.2


def test_nothing_is_announced_before_the_tenth_trial_of_this_command() -> None:
    """The trials of earlier commands do not count: another machine may have run them."""
    clock = Clock()
    remaining = remaining_time({"final": 1.0}, clock)
    remaining.take(SearchNote("final", 1, counted=20))
    for number in range(21, 21 + FIRST_ESTIMATE):
        assert remaining.seconds() is None
        remaining.take(SearchNote("final", 1, number, 0.5, seconds=1.0, epochs=10))
    assert remaining.seconds() is not None and remaining.done == 30


def told_alike(remaining: RemainingTime, trials: int, seconds: float) -> None:
    """Tell of a first search whose trials all take so many seconds, and have ten epochs."""
    remaining.take(SearchNote("one", 1))
    for number in range(1, trials + 1):
        remaining.take(SearchNote("one", 1, number, 0.5, seconds, 10))


def test_equal_trials_leave_their_exact_time() -> None:
    clock = Clock()
    remaining = remaining_time({"one": 1.0, "two": 1.0}, clock, trials=300, pruner="none")
    told_alike(remaining, 300, 1.0)
    remaining.take(SearchNote("one", 1, seconds=7.0, ended=True))
    assert remaining.seconds() == pytest.approx(300 + 7, rel=0.06)
    assert remaining.done == 300 and remaining.total == 600


def test_the_first_trial_of_a_process_counts_for_nothing_else() -> None:
    """It loads libraries and compiles kernels."""
    clock = Clock()
    estimates = []
    for first in (1.0, 60.0):
        remaining = remaining_time({"one": 1.0}, clock)
        remaining.take(SearchNote("one", 1))
        remaining.take(SearchNote("one", 1, 1, 0.5, first, 10))
        for number in range(2, 12):
            remaining.take(SearchNote("one", 1, number, 0.5, 1.0, 10))
        estimates.append(remaining.seconds())
    assert estimates[0] == estimates[1]


def test_searches_side_by_side_share_the_time() -> None:
    clock = Clock()
    names = dict.fromkeys(("one", "two", "three", "four"), 1.0)
    left = []
    for processes in (1, 2, 4):
        remaining = remaining_time(names, clock, processes=processes, pruner="none")
        told_alike(remaining, 50, 1.0)
        remaining.take(SearchNote("one", 1, seconds=10.0, ended=True))
        left.append(remaining.seconds())
    assert None not in left
    assert left[0] == pytest.approx(3 * left[2]) and left[1] == pytest.approx(2 * left[2])


def test_the_estimate_runs_down_while_a_trial_runs() -> None:
    clock = Clock()
    remaining = remaining_time({"one": 1.0}, clock)
    told_alike(remaining, 12, 1.0)
    before = remaining.seconds()
    clock.now += 0.5
    after = remaining.seconds()
    assert before is not None and after == pytest.approx(before - 0.5)
    clock.now += 1e6
    assert remaining.seconds() == 0


def test_a_time_limit_bounds_the_estimate() -> None:
    clock = Clock()
    limited, free = (
        remaining_time({"one": 1.0}, clock, trials=5000, timeout=limit) for limit in (40.0, None)
    )
    for remaining in (limited, free):
        told_alike(remaining, 12, 1.0)
    bound, unbound = limited.seconds(), free.seconds()
    assert bound is not None and unbound is not None and bound < 100 < unbound


# The bar and the lines of the log.


def test_a_line_now_and_then_tells_the_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    bar = StudyBar(remaining_time({"one": 1.0, "two": 1.0}, clock, processes=2), clock)
    with caplog.at_level("INFO", "mil_toolkit"), contextlib.closing(bar):
        bar(SearchNote("one", 1))
        for number in range(1, 51):
            clock.now += 30
            bar(SearchNote("one", 1, number, 0.5, 30.0, 10))
        bar(SearchNote("one", 1, seconds=7.0, ended=True))
        bar(SearchNote("two", 1, ended=True))
    lines = caplog.messages
    assert lines[0] == "1 of 100 trials after 30 s, 2 searches at once."
    assert lines[9].startswith("10 of 100 trials after 5.0 min: about ")
    assert lines[9].endswith(" left, 2 searches at once.")
    assert [int(line.split()[0]) for line in lines] == [*range(1, 21), *range(22, 41, 2), 43, 46, 49]
    assert bar.seconds_per_trial == 30 and bar.remaining.done == 100


def test_a_terminal_shows_one_bar_over_all_trials(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", shown)
    clock = Clock()
    bar = StudyBar(remaining_time({"one": 1.0, "two": 1.0}, clock), clock)
    with caplog.at_level("INFO", "mil_toolkit"), contextlib.closing(bar):
        bar(SearchNote("one", 1))
        for number in range(1, 13):
            bar(SearchNote("one", 1, number, 0.25, 30.0, 10))
    first, last = shown.getvalue().split("\r")[1], shown.getvalue().rstrip().split("\r")[-1]
    assert "0/100" in first and "left" not in first
    assert "12/100" in last and "best 0.2500, about " in last and last.endswith(" left]")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119.4, "119 s"), (121, "2.0 min"), (3000, "50 min"), (7300, "2.0 h"), (40_000, "11 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
