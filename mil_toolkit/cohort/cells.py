"""How the cells of a table are compared: missing values, Unicode normal form, numbers."""

import re
import unicodedata

MISSING = frozenset({"", "na", "nan", "n/a", "?"})  # trimmed and in lower case
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def is_missing(cell: str) -> bool:
    """Return whether a cell stands for a missing value."""
    return cell.strip().lower() in MISSING


def normal_form(text: str) -> str:
    """Return the text in Unicode normal form C, in which ids, folder names and headers are compared."""
    return unicodedata.normalize("NFC", text)


def canonical_word(word: str | int) -> str:
    """Return the form in which labels are compared: the '1.0' of a table equals the 1 of cohort.toml."""
    text = str(word).strip()
    return repr(float(text)) if NUMBER.fullmatch(text) else text
