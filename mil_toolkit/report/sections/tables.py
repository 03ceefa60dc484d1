"""`ScoreTable`: a table of scores with intervals, as the template shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mil_toolkit.evaluation.records import Difference, Estimate
from mil_toolkit.evaluation.words import number, p_value


@dataclass(frozen=True)
class Cell:
    """A value with its interval as text, which may be empty."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; own: whether it is emphasised. Cells may be None, which leaves them empty."""

    name: str
    cells: Sequence[Cell | None]
    own: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """A table; name: for screen readers; heads: of all columns, the first of which holds the rows' names."""

    name: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Row]


def cell(estimate: Estimate, sign: str = "") -> Cell:
    """Return a value with its interval; with sign "+" numbers always have a sign."""
    value, low, high = (number(each, sign) for each in (estimate.value, estimate.low, estimate.high))
    return Cell(value, f"{low} to {high}")


def difference_cells(difference: Difference | None) -> list[Cell | None]:
    """Return a difference with its interval, and its p-value; two empty cells for None."""
    if difference is None:
        return [None, None]
    return [cell(difference, "+"), Cell(p_value(difference.p_value))]
