"""How the cells of a table are compared: missing values, Unicode normal form, numbers."""

import re
import unicodedata
from datetime import date, datetime

MISSING = frozenset({"", "na", "nan", "n/a", "?"})  # trimmed and in lower case
# In a column of words, these may be words: "-" beside "+" is a negative result.
MISSING_VALUES = frozenset({*MISSING, "n.a.", "n. a.", "k.a.", "k. a.", "null", "#n/a"})
DASHES = re.compile(r"[-\u2010-\u2015\u2212]+")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class NumberCell(str):
    """The text of a cell that a spreadsheet stores as a number, with a decimal point in any table."""


class DateCell(str):
    """The text of a cell that a spreadsheet stores as a date, in ISO format."""

    @property
    def day(self) -> date:
        """The date, without the time of day."""
        return datetime.fromisoformat(self).date()


def is_missing(cell: str) -> bool:
    """Return whether a cell stands for a missing value."""
    return cell.strip().lower() in MISSING


def is_missing_value(cell: str) -> bool:
    """Return whether a cell of a column of numbers or dates stands for a missing value."""
    text = cell.strip().lower()
    return text in MISSING_VALUES or DASHES.fullmatch(text) is not None


def normal_form(text: str) -> str:
    """Return the text in Unicode normal form C, in which ids, folder names and headers are compared."""
    return unicodedata.normalize("NFC", text)


def canonical_word(word: str | int) -> str:
    """Return the form in which labels are compared: the '1.0' of a table equals the 1 of cohort.toml."""
    text = str(word).strip()
    return repr(float(text)) if NUMBER.fullmatch(text) else text
