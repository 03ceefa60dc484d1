"""Find values that can be read but are implausible: placeholders, negative counts, impossible ages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt

from mil_toolkit.cohort.dates import serial_day
from mil_toolkit.cohort.header_words import is_named_age, is_named_birth, is_named_count
from mil_toolkit.cohort.kinds import DAYS_PER_YEAR, OLDEST
from mil_toolkit.core.text import count_of, printable, some

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NINES = (9.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0)
ISOLATED = 2  # a placeholder is more than this many times as large as every other value
FEW = 0.25  # a greater share of negative values is taken as intended
OLD, ADULT, CHILD = 110, 18, 12  # years
FEW_CHILDREN = 0.1
PLACEHOLDER_DAYS = frozenset(
    [date(1899, 12, 30), date(1899, 12, 31), date(1900, 1, 1), date(1901, 1, 1), date(1904, 1, 1)]
)
UNIX_START = date(1970, 1, 1)  # a usual date of birth, but suspicious if several patients have it
BIRTH_YEARS = range(1890, 2100)


@dataclass(frozen=True)
class Oddity:
    """What is odd about some values of a column, as the rest of a sentence, and which values these are."""

    reason: str
    where: Mask

    def line(self, cells: Sequence[str], places: Sequence[str]) -> str:
        """Return the message; cells, places: of all values of the column."""
        named = [
            f"{printable(repr(cell))} ({place})"
            for cell, place, odd in zip(cells, places, self.where, strict=True)
            if odd
        ]
        return f"{count_of(len(named), 'cell')} {self.reason}: {some(named)}."


def odd_numbers(header: str, values: Values) -> Iterator[Oddity]:
    """Yield what is implausible in a column of numbers; NaN stands for a missing value."""
    if is_named_birth(header):
        yield from _some("of a column of birth dates, read as plain numbers", ~np.isnan(values))
        return
    placeholders = _placeholders(values)
    yield from _some("perhaps standing for a missing value", placeholders)
    negative = (values < 0) & ~placeholders
    if is_named_count(header) or is_named_age(header) or _share(negative, values) <= FEW:
        yield from _some("below zero", negative)
    if is_named_age(header):
        yield from _some(f"above an age of {OLDEST} years", (values > OLDEST) & ~placeholders)
        yield from _some("far below the ages of the other patients, who are adults", _children(values))


def _placeholders(values: Values) -> Mask:
    """Return where the values are nines that stand far from the others, such as -999."""
    nines = np.isin(np.abs(values), NINES)
    others = values[~nines & ~np.isnan(values)]
    isolated = np.abs(values) / ISOLATED > np.max(np.abs(others), initial=1)
    negative = (values < 0) & bool((others < 0).mean() <= FEW if len(others) else True)
    placeholders: Mask = nines & (negative | isolated) & ((values < 0) | (values >= 99))
    return placeholders


def odd_ages(ages: Values, reference: date) -> Iterator[Oddity]:
    """Yield what is implausible in the ages at the reference that dates of birth give."""
    births = [None if np.isnan(age) else reference - timedelta(age * DAYS_PER_YEAR) for age in ages]
    suspicious = PLACEHOLDER_DAYS | ({UNIX_START} if births.count(UNIX_START) > 1 else set())
    placeholders = np.array([birth in suspicious for birth in births], dtype=bool)
    yield from _some("perhaps standing for an unknown date", placeholders)
    yield from _some(f"giving an age above {OLD} years", (ages > OLD) & ~placeholders)
    yield from _some("giving the age of a child among adults (perhaps the wrong century)", _children(ages))


def _some(reason: str, where: Mask) -> Iterator[Oddity]:
    if where.any():
        yield Oddity(reason, where)


def _share(where: Mask, values: Values) -> float:
    return float(where.sum()) / max(1, int((~np.isnan(values)).sum()))


def _children(ages: Values) -> Mask:
    """Return where the ages are those of the few children in a table of adults."""
    children: Mask = (ages >= 0) & (ages < CHILD)
    rest = ages[~children & (ages >= 0)]
    few = children.sum() <= max(1, FEW_CHILDREN * len(ages)) and len(rest) > 1
    return children if few and (rest >= ADULT).all() else np.zeros(len(ages), dtype=bool)


def numbers_for_dates(cells: Sequence[str]) -> str | None:
    """Return what numbers in a column of birth dates seem to be, or None if they are nothing known."""
    years = [cell for cell in cells if cell.isdecimal() and len(cell) <= 18 and int(cell) in BIRTH_YEARS]
    if len(years) == len(cells):
        years_only = f"years ({printable(repr(cells[0]))}), without a day and a month"
        return f"{years_only}. Use a column of whole dates or of ages"
    day = serial_day(cells[0])
    if day is None:
        return None
    serial = f"{printable(repr(cells[0]))} may be {day}"
    return f"the numbers by which spreadsheets store dates ({serial}). Format it as dates in the spreadsheet"
