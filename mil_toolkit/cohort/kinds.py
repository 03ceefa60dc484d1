"""`KINDS`: the kinds of metadata columns, with one parser each."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from mil_toolkit.cohort.dates import read_date, serial_day
from mil_toolkit.core.cells import is_missing, is_missing_value, normal_form
from mil_toolkit.core.numbers import Unreadable, finite_number
from mil_toolkit.core.text import printable

OLDEST = 130  # years; a greater age means that the date was misread
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class MetadataColumn:
    """One `[metadata.NAME]` section: its name, and one field per key."""

    name: str
    column: str
    kind: str
    formats: tuple[str, ...] = ()
    reference: date | None = None
    transform: str | None = None
    unit: str | None = None

    @property
    def section(self) -> str:
        """The section as messages name it."""
        return f"[metadata.{printable(self.name)}]"


# The parsers. Each takes a trimmed cell that is not missing, its column and the decimal sign, and returns the
# value or raises Unreadable.


def parse_number(cell: str, column: MetadataColumn, decimal: str) -> float:
    """Return a finite number, written with the declared decimal sign; positive if its logarithm is taken."""
    value = finite_number(cell, decimal)
    if column.transform == "log" and value <= 0:
        advice = f'Correct the cell, empty it, or remove transform = "log" from {column.section}'
        raise Unreadable("is not above 0, so it has no logarithm.", advice)
    return value


def parse_category(cell: str, column: MetadataColumn, decimal: str) -> str:
    """Return the word in upper case and in Unicode normal form C."""
    return normal_form(cell.casefold().upper())


def parse_birth_date(cell: str, column: MetadataColumn, decimal: str) -> float:
    """Return the age in years at the reference date."""
    assert column.reference is not None  # KINDS requires it, and read_declaration has checked that
    readings = read_date(cell, column.formats, latest=column.reference)
    if not readings:
        raise _unreadable_date(cell, column)
    if len(set(readings.values())) > 1:
        both = " and ".join(f"{day} by {printable(format)}" for format, day in readings.items())
        raise Unreadable(f"is ambiguous: {both}.", f"Keep only one of these formats in {column.section}")
    birth = next(iter(readings.values()))
    at_reference = f"the reference {column.reference} of {column.section}"
    age = (column.reference - birth).days / DAYS_PER_YEAR
    if age < 0:
        raise Unreadable(f"is {birth}, which is after {at_reference}.")
    if age > OLDEST:
        raise Unreadable(f"is {birth}, which gives an age of {age:.0f} years at {at_reference}.")
    return age


def _unreadable_date(cell: str, column: MetadataColumn) -> Unreadable:
    formats = printable(", ".join(column.formats))
    day = serial_day(cell)
    if day is not None:
        reason = f"matches none of the formats {formats}. A spreadsheet may store {day} as this number;"
        return Unreadable(f"{reason} format the column as dates there and save the table again.")
    advice = f"Add its format to {column.section} formats"
    return Unreadable(f"matches none of the formats {formats}.", advice)


@dataclass(frozen=True)
class Kind:
    """A kind of metadata.

    parse: its parser
    numeric: whether the values are numbers (otherwise they are words)
    is_missing: whether a cell stands for a missing value
    needs, takes: keys of the section that it requires and allows, besides `column` and `kind`
    """

    parse: Callable[[str, MetadataColumn, str], float | str]
    numeric: bool
    is_missing: Callable[[str], bool] = is_missing_value
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "number": Kind(parse_number, numeric=True, takes=("transform", "unit")),
    "category": Kind(parse_category, numeric=False, is_missing=is_missing),
    "birth-date": Kind(parse_birth_date, numeric=True, needs=("formats", "reference")),
}
