"""Read numbers as laboratories write them: with a decimal point or comma, and with separated thousands."""

import math
import re
from collections.abc import Sequence

from mil_toolkit.core.cells import NUMBER, NumberCell

SPACES = " \u00a0\u2009\u202f'\u2019"  # separate thousands, whatever the decimal sign
SPACED = re.compile(rf"[+-]?\d{{1,3}}(?P<mark>[{SPACES}])\d{{3}}(?:(?P=mark)\d{{3}})*", re.ASCII)
MARKED = re.compile(r"[+-]?\d{1,3}(?P<mark>[.,])\d{3}(?:(?P=mark)\d{3})*", re.ASCII)
THREE_DIGITS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)  # 1.234 is 1234 if the point groups digits
LIMIT = re.compile(r"(?:[<>≤≥≦≧~≈=]|ca\.)+\s*")
UNIT = re.compile(r"(?<!\s)(?:\s*%|\s+[^\W\d]\S*|\s*\*+|\s+\d+\^\d+\S*)")


def number_text(cell: str, decimal: str) -> str | None:
    """Return the number in a cell as Python writes it, or None if the cell is not a number.

    Spaces and apostrophes between groups of three digits are left out. So is the sign of the thousands that
    belongs to the decimal sign, unless it occurs once without a decimal sign: "1.234" has two readings.
    """
    if isinstance(cell, NumberCell):
        return str(cell)
    text = _without_thousands(cell.replace("\u2212", "-"), decimal)
    if decimal != "." and "." in text:
        return None
    text = text.replace(decimal, ".")
    return text if NUMBER.fullmatch(text) else None


class Unreadable(ValueError):
    """A cell that cannot be parsed.

    reason: the rest of a sentence that begins with the cell
    advice: what to change in the cohort.toml, without a full stop: the name of the file follows; may be empty
    """

    def __init__(self, reason: str, advice: str = ""):
        super().__init__(reason)
        self.reason, self.advice = reason, advice


def finite_number(cell: str, decimal: str) -> float:
    """Return a finite number, written with the declared decimal sign; raises Unreadable for other cells."""
    text = number_text(cell, decimal)
    if text is None:
        raise _unreadable_number(cell, decimal)
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable("is not a finite number.")
    return value


def _unreadable_number(cell: str, decimal: str) -> Unreadable:
    if is_limit(cell):
        return Unreadable("is a limit, not a number. Write the value to use in its place, or empty the cell.")
    if decimal == "," and "." in cell:
        return Unreadable('contains a point, but decimal = "," is declared.')
    if decimal == "." and is_number(cell, ","):
        advice = 'If it is a decimal comma, add decimal = "," to [cohort]'
        both = f", so it is {cell.replace(',', '.')} or {cell.replace(',', '')}" if may_group(cell) else ""
        return Unreadable(f"contains a comma{both}.", advice)
    return Unreadable("is not a finite number.")


def _without_thousands(text: str, decimal: str) -> str:
    whole, sign, fraction = text.partition(decimal)
    if SPACED.fullmatch(whole):
        return re.sub(f"[{SPACES}]", "", whole) + sign + fraction
    match = MARKED.fullmatch(whole)
    if match and match["mark"] != decimal and (sign or whole.count(match["mark"]) > 1):
        return whole.replace(match["mark"], "") + sign + fraction
    return text


def is_number(cell: str, decimal: str) -> bool:
    """Return whether a cell is a number with this decimal sign."""
    return number_text(cell, decimal) is not None


def is_limit(cell: str) -> bool:
    """Return whether a cell is a number behind a sign such as "<"."""
    return LIMIT.match(cell) is not None and looks_numeric(cell)


def looks_numeric(cell: str) -> bool:
    """Return whether a cell holds a number, perhaps with another decimal sign, a limit or a unit."""
    limit = LIMIT.match(cell)
    text = cell[limit.end() :] if limit else cell
    candidates = [text, *(text[: unit.start()] for unit in UNIT.finditer(text) if unit.end() == len(text))]
    return any(is_number(candidate, decimal) for candidate in candidates for decimal in ".,")


def has_separated_thousands(cell: str, decimal: str) -> bool:
    """Return whether a cell is a number with separated thousands."""
    return is_number(cell, decimal) and _without_thousands(cell, decimal) != cell


def may_group(cell: str) -> bool:
    """Return whether the only sign in a number may separate thousands as well as decimals."""
    return THREE_DIGITS.fullmatch(cell) is not None


def ambiguous_thousands(cells: Sequence[str], decimal: str) -> list[str]:
    """Return the cells with a decimal sign if in each it may separate thousands as well; otherwise none."""
    signed = [cell for cell in cells if decimal in cell and not isinstance(cell, NumberCell)]
    return signed if all(map(may_group, signed)) else []
