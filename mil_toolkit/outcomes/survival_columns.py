"""Read the two columns of a survival outcome: times, and whether the event happened then."""

from collections.abc import Collection, Sequence

import numpy as np

from mil_toolkit.core.cells import canonical_word, is_missing_value
from mil_toolkit.core.numbers import is_limit
from mil_toolkit.core.text import each_or_most, printable
from mil_toolkit.outcomes.number_cells import read_numbers
from mil_toolkit.outcomes.outcome import UNLABELLED, OutcomeRow, Parsed
from mil_toolkit.outcomes.words import missing_cell

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
    read, problems = read_numbers(cells, column, decimal, unlabelled, noun="time")
    if any(is_limit(cell) for _, cell in cells):
        advice = "a patient without the event then has the event 0"
        problems.append(f"Instead of a limit, write the time that was observed; {advice}.")
    pairs = zip(cells, read, strict=True)
    low = [f"{place}: {printable(column)} {cell!r}" for (place, cell), time in pairs if time <= 0]
    lines = (f"{cell} is not above 0." for cell in low)
    problems += each_or_most(low, len(cells), lines, "times are not above 0:")
    if low:
        advice = (
            'empty time and event of patients who were not observed after it, and declare unlabelled = ""'
        )
        problems.append(f"A time counts from the start of the observation; {advice}.")
    return np.where(read > 0, read, float(UNLABELLED)), problems


def _events(cells: Cells, column: str, unlabelled: Collection[str]) -> Column:
    known = {word: UNLABELLED for word in unlabelled} | {canonical_word(event): event for event in (0, 1)}
    problems, wrong = list[str](), list[str]()
    for place, cell in cells:
        if canonical_word(cell) in known:
            continue
        if is_missing_value(cell):
            problems.append(missing_cell("event", place, cell, column))
        else:
            wrong.append(f"{place}: {printable(column)} {cell!r}")
    lines = (f"{cell} is not 1 (event) or 0 (censored)." for cell in wrong)
    problems += each_or_most(wrong, len(cells), lines, "events are not 1 (event) or 0 (censored):")
    if wrong:
        problems.append("Write 1 if the event happened at the time, and 0 if the patient was last seen then.")
    return np.array([known.get(canonical_word(cell), UNLABELLED) for _, cell in cells], dtype=float), problems
