"""Pieces of the lines that mil-init writes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mil_toolkit.core.text import printable, some

CHECK = "# CHECK: "
EXAMPLES = 3  # cells that a line shows


@dataclass(frozen=True)
class TableColumn:
    """A column of the table with the number of each row."""

    name: str
    cells: Sequence[str]
    numbers: Sequence[int]

    def rows_of(self, cells: Iterable[str]) -> str:
        """Return the rows that have one of these cells, as messages name them."""
        wanted = set(cells)
        rows = [number for number, cell in zip(self.numbers, self.cells, strict=True) if cell in wanted]
        return f"{'row' if len(rows) == 1 else 'rows'} {some(rows)}"


def check(text: str) -> str:
    """Return a comment that asks the reader to check a guess."""
    return CHECK + text


def examples(cells: Collection[str]) -> str:
    """Return the first different cells in their order, as messages show them."""
    return "for example " + ", ".join(printable(repr(cell)) for cell in sorted(set(cells))[:EXAMPLES])
