"""Tables of delimited text, read as trimmed cells."""

import csv
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import shown

MISSING = frozenset({"", "na", "nan", "n/a", "?"})  # of a trimmed cell in lower case
SEPARATORS = (",", ";", "\t")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


# The table: what a spreadsheet shows.


@dataclass(frozen=True)
class Table:
    """A table of trimmed cells; `numbers` are the rows' numbers in a spreadsheet, the header being row 1."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    problems: tuple[str, ...]

    def column(self, name: str) -> list[str] | None:
        """The cells of a column, or None where the header does not name it exactly once."""
        if self.header.count(normal_form(name)) != 1:
            return None
        place = self.header.index(normal_form(name))
        return [row[place] for row in self.rows]


def read_table(path: Path, name: str, separator: str | None = None) -> Table:
    """Read comma, semicolon or tab separated UTF-8 text; `name` stands for it in messages.

    Rows with too many or too few cells are left out and become `problems`; empty rows are skipped.
    Raises DataError where the file cannot be read at all.
    """
    text = _read_text(path, name)
    lines = _parse_rows(text, separator or guess_separator(text), name)
    header = tuple(map(normal_form, lines[0])) if lines else ()
    filled = [(number, row) for number, row in enumerate(lines[1:], start=2) if any(row)]
    problems = [
        f"{name}, row {number}: {len(row)} cells where the header has {len(header)}."
        for number, row in filled
        if len(row) != len(header)
    ]
    if not filled:
        problems.append(f"{name} has no rows below its header.")
    whole = [(number, row) for number, row in filled if len(row) == len(header)]
    return Table(
        name,
        header,
        rows=tuple(tuple(row) for _, row in whole),
        numbers=tuple(number for number, _ in whole),
        problems=tuple(problems),
    )


def _read_text(path: Path, name: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, line {line} is not UTF-8 text. Save the table as CSV in UTF-8.") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read ({path}): {error.strerror}.") from None
    except ValueError as error:  # a NUL in the path
        raise DataError(f"{shown(name)} cannot be read: {error}.") from None


def guess_separator(text: str) -> str:
    """The separator that cuts the header into most cells; a comma where none cuts it."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    return max(SEPARATORS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))


def _parse_rows(text: str, separator: str, name: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num} cannot be read as CSV: {error}.") from None


def is_missing(cell: str) -> bool:
    """Whether a cell stands for no value."""
    return cell.strip().lower() in MISSING


def normal_form(text: str) -> str:
    """Unicode normal form C, by which ids, folder names and headers are compared."""
    return unicodedata.normalize("NFC", text)


def canonical_word(word: str | int) -> str:
    """Numbers compare as numbers, so that a table's '1.0' is the 1 of cohort.toml."""
    text = str(word).strip()
    return repr(float(text)) if NUMBER.fullmatch(text) else text
