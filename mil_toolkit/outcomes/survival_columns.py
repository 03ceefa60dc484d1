"""Read the two columns of a survival outcome: times, and whether the event happened then."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from mil_toolkit.core.cells import canonical_word, is_missing_value
from mil_toolkit.core.numbers import is_limit, is_number, number_text
from mil_toolkit.core.text import each_or_most, printable
from mil_toolkit.outcomes.outcome import UNLABELLED, OutcomeRow, Parsed

Word = str | int
Cells = Sequence[tuple[str, str]]  # place, such as the row and the patient, and text of each cell
Column = tuple[np.ndarray, list[str]]  # the numbers of a column, and a line for each problem


def read_survival(
    rows: Sequence[OutcomeRow], columns: tuple[str, str], decimal: str, unlabelled: Collection[Word] = ()
) -> Parsed:
    """Return times above 0 and events of 0 or 1, (P, 2), both -1 for unlabelled patients.

    rows: with the cells of time and event; columns: their names; decimal: the decimal sign; unlabelled: the
    words that stand for an unknown outcome, in both columns

    Reported are cells that are missing or have other values, and rows with only one of time and event.
    """
    words = frozenset(map(canonical_word, unlabelled))
    places = [row.place for row in rows]
    cells = [[row.cells[number] for row in rows] for number in (0, 1)]
    times, of_times = _times(list(zip(places, cells[0], strict=True)), columns[0], decimal, words)
    events, of_events = _events(list(zip(places, cells[1], strict=True)), columns[1], words)
    halves = [
        f"{row.place}: {printable(columns[0])} {row.cells[0]!r} and {printable(columns[1])}"
        f" {row.cells[1]!r}: a patient needs both, or is unlabelled in both."
        for row in rows
        if (canonical_word(row.cells[0]) in words) != (canonical_word(row.cells[1]) in words)
    ]
    return Parsed(np.stack([times, events], axis=-1), [*of_times, *of_events, *halves])


def _times(cells: Cells, column: str, decimal: str, unlabelled: Collection[str]) -> Column:
    times, problems = np.full(len(cells), float(UNLABELLED)), list[str]()
    unreadable, low = list[str](), list[str]()
    for position, (place, cell) in enumerate(cells):
        if canonical_word(cell) in unlabelled:
            continue
        if is_missing_value(cell):
            problems.append(_missing("time", place, cell, column))
            continue
        text = number_text(cell, decimal)
        shown = f"{place}: {printable(column)} {cell!r}"
        if text is None or not math.isfinite(float(text)):
            unreadable.append(f"{shown} is not a finite number.{_advice(cell, decimal)}")
        elif float(text) <= 0:
            low.append(shown)
        else:
            times[position] = float(text)
    summary = "times are not finite numbers:"
    problems += each_or_most([line.rstrip(".") for line in unreadable], len(cells), unreadable, summary)
    lines = (f"{cell} is not above 0." for cell in low)
    problems += each_or_most(low, len(cells), lines, "times are not above 0:")
    if low:
        advice = "exclude patients who were not observed after it"
        problems.append(f"A time counts from the start of the observation; {advice}.")
    return times, problems


def _advice(cell: str, decimal: str) -> str:
    if is_limit(cell):
        return " Write the time that was observed; a patient without the event then has the event 0."
    if decimal == "." and is_number(cell, ","):
        return ' If it is a decimal comma, add decimal = "," to [cohort].'
    return ""


def _events(cells: Cells, column: str, unlabelled: Collection[str]) -> Column:
    known = {word: UNLABELLED for word in unlabelled} | {canonical_word(event): event for event in (0, 1)}
    problems, wrong = list[str](), list[str]()
    for place, cell in cells:
        if canonical_word(cell) in known:
            continue
        if is_missing_value(cell):
            problems.append(_missing("event", place, cell, column))
        else:
            wrong.append(f"{place}: {printable(column)} {cell!r}")
    lines = (f"{cell} is not 1 (event) or 0 (censored)." for cell in wrong)
    problems += each_or_most(wrong, len(cells), lines, "events are not 1 (event) or 0 (censored):")
    return np.array([known.get(canonical_word(cell), UNLABELLED) for _, cell in cells], dtype=float), problems


def _missing(noun: str, place: str, cell: str, column: str) -> str:
    advice = f'Fill it in, or declare unlabelled = "{cell}" if the patient is to be predicted.'
    return f"{place}: no {noun} in {column!r}. {advice}"
