"""Read delimited text into rows of trimmed cells."""

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from contextlib import suppress

from mil_toolkit.cohort.problems import Problems

SEPARATORS = (",", ";", "\t")
CELLS = 20_000_000  # of a table
JUDGED = 50  # rows by which the separator is guessed
SEPARATOR_LINE = re.compile(r'"?sep=(?P<separator>[^\r\n"])"?[,;\t]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_delimited(
    data: bytes, name: str, problems: Problems, separator: str | None
) -> list[list[str]] | None:
    """Return the rows of comma, semicolon or tab separated text in UTF-8, or in UTF-16 with its mark.

    A first line such as "sep=;", which spreadsheets do not count as a row, declares the separator.

    Returns None, with the reason added to `problems`, if the text cannot be read.
    """
    text = _decode(data, name, problems)
    if text is None:
        return None
    declared = SEPARATOR_LINE.match(text)
    if declared:
        text = text[declared.end() :]
        separator = separator or declared["separator"]
    return _parse_rows(text, separator or guess_separator(text), name, problems)


def _decode(data: bytes, name: str, problems: Problems) -> str | None:
    encoding = "utf-16" if data.startswith(UTF_16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        written = "UTF-16" if encoding == "utf-16" else "UTF-8"
        problems.add(f"{name}, line {line} is not {written} text. Save the table as CSV in UTF-8.")
        return None
    if "\x00" in text:
        problems.add(f"{name} is not text: it contains NUL characters. Save the table as CSV in UTF-8.")
        return None
    return text


def guess_separator(text: str) -> str:
    """Return the separator by which the most of the first rows have the same number of cells, above one.

    Of several, it is the one that makes the most cells; a comma if none divides the rows.
    """
    return max(SEPARATORS, key=lambda separator: _agreement(text, separator))


def _agreement(text: str, separator: str) -> tuple[int, int]:
    """Return how many rows have the most common number of cells above one, and that number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    widths: Counter[int] = Counter()
    with suppress(csv.Error):  # the rows above count
        widths.update(len(row) for row in itertools.islice(reader, JUDGED) if len(row) > 1)
    return max(((count, width) for width, count in widths.items()), default=(0, 1))


def _parse_rows(text: str, separator: str, name: str, problems: Problems) -> list[list[str]] | None:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    cells = 0
    try:
        for row in reader:
            cells += len(row)
            if cells > CELLS:
                problems.add(f"{name} has more than {CELLS:,} cells. Leave out columns that are not needed.")
                return None
            rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        problems.add(f"{name}, line {reader.line_num} cannot be read as CSV: {error}.")
        return None
    return rows
