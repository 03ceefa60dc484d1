"""`read_table` reads delimited text or a sheet of a workbook into a table of trimmed cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.cohort.delimited import read_delimited
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.workbook import is_workbook, problem_of_format, read_workbook
from mil_toolkit.core.cells import NUMBER, DateCell, is_missing, normal_form
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.text import count_of, printable

TABLE_LIMIT = 64 * MEBIBYTE  # of the file; cells take some 20 times as much memory
HEADER_ROWS = 10  # first rows among which the header is looked for
Row = Sequence[str]


@dataclass(frozen=True)
class TextTable:
    """A table of trimmed cells.

    name: the table's name in messages
    numbers: the number that a spreadsheet shows for each of `rows`
    notes: what the reader should know about how the table was read
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> list[str] | None:
        """Return the cells of a column, or None if the header does not contain its name exactly once."""
        if self.header.count(normal_form(name)) != 1:
            return None
        position = self.header.index(normal_form(name))
        return [row[position] for row in self.rows]

    def place(self, number: int) -> str:
        """Return how messages refer to the row with this number."""
        return f"{self.name}, row {number}"


def read_table(
    path: Path, name: str, problems: Problems, separator: str | None = None, sheet: str | None = None
) -> TextTable | None:
    """Read delimited text in UTF-8 or UTF-16, or an .xlsx workbook; `name` stands for it in messages.

    Rows with too many or too few cells are reported and left out; empty rows are skipped, and so are titles
    above the header. Returns None, with the reason added to `problems`, if the file cannot be read at all.

    sheet: the name of the sheet of a workbook; None if only one has cells
    """
    name = printable(name)
    data = _read_bytes(path, name, problems)
    if data is None:
        return None
    problem = problem_of_format(path.suffix, data)
    if problem is not None:
        problems.add(f"{name} {problem}")
        return None
    if is_workbook(data):
        lines = read_workbook(data, name, problems, sheet)
    else:
        if sheet is not None:
            problems.add(f"{name} is not a workbook; remove the sheet {sheet!r}.")
        lines = read_delimited(data, name, problems, separator)
    return None if lines is None else _table_of(name, lines, problems)


def _read_bytes(path: Path, name: str, problems: Problems) -> bytes | None:
    try:
        return read_input(path, TABLE_LIMIT)
    except FileNotFoundError:
        problems.add(f"{name} cannot be read ({printable(path)}): No such file or directory.")
    except MilError as error:
        problems.add_error(error)
    return None


def _table_of(name: str, lines: Sequence[Row], problems: Problems) -> TextTable:
    """Return the table below its header; `lines` may come from any format."""
    top = _header_position(lines)
    width = max((_filled_width(line) for line in lines[top:]), default=0)
    header = tuple(map(normal_form, lines[top][:width])) if lines else ()
    filled = [(number, row) for number, row in enumerate(lines[top + 1 :], start=top + 2) if any(row)]
    fitted = [(number, _without_empty_end(row, len(header))) for number, row in filled]
    complete = [(number, row) for number, row in fitted if len(row) == len(header)]
    table = TextTable(
        name,
        header,
        rows=tuple(tuple(row) for _, row in complete),
        numbers=tuple(number for number, _ in complete),
        notes=tuple(_notes_above(name, lines, top)),
    )
    for number, row in fitted:
        if len(row) != len(header):
            problems.add(
                f"{count_of(len(row), 'cell')}, but the header has {len(header)}.", table.place(number)
            )
    if not filled:
        problems.add(f"{name} has no rows below its header.")
    return table


def _header_position(lines: Sequence[Row]) -> int:
    """Return which line is the header: the first that is not blank, or a line below titles.

    Lines with much fewer cells than a later line of different words are titles or merged cells.
    """
    header = next((position for position, line in enumerate(lines) if any(line)), 0)
    for position, line in enumerate(lines[:HEADER_ROWS]):
        if _is_header(line) and all(3 * _filled(above) < 2 * _filled(line) for above in lines[:position]):
            header = position
    return header


def _is_header(line: Row) -> bool:
    names = [cell for cell in line if cell]
    values = [
        cell for cell in names if is_missing(cell) or NUMBER.fullmatch(cell) or isinstance(cell, DateCell)
    ]
    return len(names) > 1 and len(set(names)) == len(names) and not values


def _filled(line: Row) -> int:
    return sum(map(bool, line))


def _filled_width(line: Row) -> int:
    return max((position for position, cell in enumerate(line, start=1) if cell), default=0)


def _without_empty_end(row: Row, width: int) -> Row:
    """Return a row without empty cells beyond the width, unless others stand there too."""
    return row if any(row[width:]) else row[:width]


def _notes_above(name: str, lines: Sequence[Row], top: int) -> list[str]:
    titles = [next(cell for cell in line if cell) for line in lines[:top] if any(line)]
    if not titles:
        return []
    above = ", ".join(printable(repr(title)) for title in titles)
    header = ", ".join(printable(repr(cell)) for cell in lines[top] if cell)
    return [
        f"row {top + 1} of {name} is read as the header ({header}), and not what stands above it: {above}."
    ]
