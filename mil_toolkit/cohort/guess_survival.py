"""Guess which columns hold the time and the event of survival."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from mil_toolkit.cohort.guess_roles import guess_classes
from mil_toolkit.cohort.header_words import (
    is_named_event,
    is_named_follow_up,
    is_named_status,
    is_named_time,
    is_one_word,
    is_sex,
    may_be_measured_time,
)
from mil_toolkit.core.cells import canonical_word, is_missing, is_missing_value
from mil_toolkit.core.numbers import is_number, number_text
from mil_toolkit.core.text import printable

Columns = Mapping[str, Sequence[str]]  # the cells of each column


@dataclass(frozen=True)
class Pair:
    """A time and an event that may belong together.

    strong: both headers are clear, so that the model must not see the columns
    coded: the event is written 0 and 1
    """

    time: str
    event: str
    strong: bool
    coded: bool


def find_pairs(columns: Columns) -> list[Pair]:
    """Return a time for each column of events: the one whose header shares most words, or else the nearest.

    Those whose headers share most words come first.
    """
    times = _times(columns)
    events = [name for name, cells in columns.items() if _may_be_event(name, cells)]
    order = list(columns)
    best: dict[str, tuple[int, int, str]] = {}
    for event, time in product(events, times):
        if time != event and _belong_together(time, event):
            rank = _shared_words(time, event), -abs(order.index(event) - order.index(time)), time
            best[event] = max(best.get(event, rank), rank, key=lambda rank: rank[:2])
    return [
        Pair(time, event, _is_strong(time, event), holds_events(columns[event]))
        for event, (_, _, time) in sorted(best.items(), key=lambda item: -item[1][0])
    ]


def columns_to_leave_out(columns: Columns) -> dict[str, str]:
    """Return why columns that may reveal the survival must not be metadata, by their names.

    These are clearly named events, the times beside them, and times whose event is not written 0 and 1.
    """
    belongs = "it may belong to an outcome, which the model must not see"
    events = [name for name, cells in columns.items() if is_named_event(name) and holds_two_words(cells)]
    reasons = dict.fromkeys(events, "its name is that of an event, which the model must not see")
    reasons |= {time: belongs for event, time in product(events, _times(columns)) if _is_strong(time, event)}
    for pair in find_pairs(columns):
        if pair.strong or _is_generic(pair.time, pair.event):
            reasons |= {pair.time: belongs, pair.event: belongs}
        if not pair.coded:
            event = printable(pair.event)
            advice = f"for survival, write 1 and 0 in {event}"
            reasons[pair.time] = f"it may be the time of {event}, which the model must not see; {advice}"
    return reasons


def _times(columns: Columns) -> list[str]:
    return [name for name, cells in columns.items() if is_named_time(name) and holds_times(cells)]


def _may_be_event(name: str, cells: Sequence[str]) -> bool:
    return (is_named_event(name) or is_named_status(name)) and holds_two_words(cells)


def _belong_together(time: str, event: str) -> bool:
    if _is_strong(time, event):
        return True
    return _is_generic(time, event) or is_named_follow_up(time) or _shared_words(time, event) > 0


def _is_generic(time: str, event: str) -> bool:
    """Return whether both headers are single words, such as time and status."""
    return is_one_word(time) and is_one_word(event) and not may_be_measured_time(time)


def _is_strong(time: str, event: str) -> bool:
    return is_named_event(event) and not may_be_measured_time(time)


def _shared_words(one: str, other: str) -> int:
    return len(_words(one) & _words(other))


def _words(header: str) -> set[str]:
    return set(header.lower().replace("-", "_").replace(" ", "_").replace(".", "_").split("_"))


def holds_two_words(cells: Sequence[str]) -> bool:
    """Return whether the cells are two different words, or missing or unknown."""
    known = [cell for cell in cells if not is_unknown(cell) and not is_missing(cell)]
    return len(guess_classes(known)[0]) == 2 and not is_sex(known)


def holds_numbers(cells: Sequence[str]) -> bool:
    """Return whether all cells are numbers with the same decimal sign, or missing; more than two differ."""
    known = [cell for cell in cells if not is_missing_value(cell)]
    return len(set(known)) > 2 and any(all(is_number(cell, decimal) for cell in known) for decimal in ".,")


def holds_times(cells: Sequence[str]) -> bool:
    """Return whether all cells are numbers or missing, and most of the numbers are above 0."""
    known = [cell for cell in cells if not is_unknown(cell)]
    return holds_numbers(known) and float(np.median(numbers_of(known))) > 0


def holds_events(cells: Sequence[str]) -> bool:
    """Return whether the cells are 0 and 1, or missing."""
    return {canonical_word(cell) for cell in cells if not is_unknown(cell)} == {"0.0", "1.0"}


def is_unknown(cell: str) -> bool:
    """Return whether a time or an event is missing or -1, which usually stands for unlabelled patients."""
    return is_missing_value(cell) or canonical_word(cell) == "-1.0"


def numbers_of(cells: Sequence[str]) -> np.ndarray:
    """Return the numbers of cells that all are numbers with the same decimal sign, (n,)."""
    decimal = next(decimal for decimal in ".," if all(is_number(cell, decimal) for cell in cells))
    return np.array([float(number_text(cell, decimal) or "nan") for cell in cells])
