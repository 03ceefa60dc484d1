"""Read the numbers in a column of outcomes; each cell that cannot be read is reported with its row."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from mil_toolkit.core.cells import canonical_word, is_missing_value
from mil_toolkit.core.numbers import Unreadable, finite_number
from mil_toolkit.core.text import each_or_most, printable
from mil_toolkit.outcomes.outcome import Parsed
from mil_toolkit.outcomes.words import missing_cell

Cell = tuple[str, str]  # place, such as the row and the patient, and text


def read_numbers(
    cells: Sequence[Cell],
    column: str,
    decimal: str,
    unlabelled: Collection[str | int] = (),
    noun: str = "target",
    logarithm: bool = False,
) -> Parsed:
    """Return the number of each cell, (n,), NaN if unlabelled; missing and unreadable cells are reported.

    decimal: the decimal sign; noun: what messages call the number
    logarithm: whether its logarithm will be taken, for which it has to be above 0
    """
    without = set(map(canonical_word, unlabelled))
    values, problems = np.full(len(cells), np.nan), list[str]()
    unreadable: dict[str, list[str]] = defaultdict(list)
    advice: dict[str, None] = {}  # keys in the order in which they came
    for position, (place, cell) in enumerate(cells):
        if canonical_word(cell) in without:
            continue
        if is_missing_value(cell):
            problems.append(missing_cell(noun, place, cell, column))
            continue
        try:
            values[position] = _number(cell, decimal, logarithm)
        except Unreadable as error:
            unreadable[error.reason].append(f"{place}: {printable(column)} {cell!r}")
            advice[error.advice] = None
    for reason, affected in unreadable.items():
        lines = (f"{cell} {reason}" for cell in affected)
        summary = f"cells cannot be read: each {reason} Affected:"
        problems += each_or_most(affected, len(cells), lines, summary)
    problems += [f"{text}." for text in advice if text]
    return Parsed(values, problems)


def _number(cell: str, decimal: str, logarithm: bool) -> float:
    value = finite_number(cell, decimal)
    if logarithm and value <= 0:
        advice = 'Correct the cell, or remove transform = "log" from [cohort]'
        raise Unreadable("is not above 0, so it has no logarithm.", advice)
    return value
