"""`read_table` reads delimited text into a table of trimmed cells."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.cohort.cells import normal_form
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.text import count_of, printable

SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class TextTable:
    """A table of trimmed cells.

    name: the table's name in messages
    numbers: the number that a spreadsheet shows for each of `rows`; the header is row 1
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]

    def column(self, name: str) -> list[str] | None:
        """Return the cells of a column, or None if the header does not contain its name exactly once."""
        if self.header.count(normal_form(name)) != 1:
            return None
        position = self.header.index(normal_form(name))
        return [row[position] for row in self.rows]

    def place(self, number: int) -> str:
        """Return how messages refer to the row with this number."""
        return f"{self.name}, row {number}"


def read_table(path: Path, name: str, problems: Problems, separator: str | None = None) -> TextTable | None:
    """Read comma, semicolon or tab separated UTF-8 text; `name` stands for the table in messages.

    Rows with too many or too few cells are reported and left out; empty rows are skipped. Returns None, with
    the reason added to `problems`, if the file cannot be read at all.
    """
    text = _read_text(path, name, problems)
    if text is None:
        return None
    lines = _parse_rows(text, separator or guess_separator(text), name, problems)
    return None if lines is None else _table_of(name, lines, problems)


def _read_text(path: Path, name: str, problems: Problems) -> str | None:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.add(f"{name}, line {line} is not UTF-8 text. Save the table as CSV in UTF-8.")
    except OSError as error:
        problems.add(f"{name} cannot be read ({path}): {error.strerror}.")
    except ValueError as error:  # a NUL in the path
        problems.add(f"{printable(name)} cannot be read: {error}.")
    return None


def guess_separator(text: str) -> str:
    """Return the separator that divides the header into the most cells; a comma if none divides it."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _parse_rows(text: str, separator: str, name: str, problems: Problems) -> list[list[str]] | None:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        problems.add(f"{name}, line {reader.line_num} cannot be read as CSV: {error}.")
        return None


def _table_of(name: str, lines: Sequence[Sequence[str]], problems: Problems) -> TextTable:
    """Return the table whose header is the first line; `lines` may come from any format."""
    header = tuple(map(normal_form, lines[0])) if lines else ()
    filled = [(number, row) for number, row in enumerate(lines[1:], start=2) if any(row)]
    complete = [(number, row) for number, row in filled if len(row) == len(header)]
    table = TextTable(
        name,
        header,
        rows=tuple(tuple(row) for _, row in complete),
        numbers=tuple(number for number, _ in complete),
    )
    for number, row in filled:
        if len(row) != len(header):
            problems.add(
                f"{count_of(len(row), 'cell')}, but the header has {len(header)}.", table.place(number)
            )
    if not filled:
        problems.add(f"{name} has no rows below its header.")
    return table
