"""`KINDS`: the kinds of metadata columns, one parser each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from mil_toolkit.cohort.table import NUMBER, normal_form
from mil_toolkit.core.text import shown

OLDEST = 130  # years; a greater age is a misread date
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class MetadataColumn:
    """One `[metadata.NAME]` section, as declared."""

    name: str
    column: str
    kind: str
    formats: tuple[str, ...] = ()
    reference: date | None = None
    transform: str | None = None
    unit: str | None = None


# The kinds of metadata: one parser each. A parser gets a trimmed cell that is not missing, and raises
# Unreadable with what is wrong with it and what to do.


class Unreadable(ValueError):
    """A cell that its kind cannot read: what is wrong, and what to do about it in the cohort.toml."""

    def __init__(self, wrong: str, advice: str = ""):
        super().__init__(wrong)
        self.wrong, self.advice = wrong, advice


def parse_number(cell: str, column: MetadataColumn, decimal: str) -> float:
    """A finite number with the declared decimal sign; above 0 where its logarithm is taken."""
    if decimal == "," and "." in cell:
        raise Unreadable('has a point where decimal = "," is declared.')
    if decimal == "." and NUMBER.fullmatch(cell.replace(",", ".")) and "," in cell:
        advice = 'A decimal comma is read where decimal = "," stands under [cohort]'
        raise Unreadable("has a comma.", advice)
    if not NUMBER.fullmatch(cell.replace(decimal, ".")):
        raise Unreadable("is not a finite number.")
    value = float(cell.replace(decimal, "."))
    if not math.isfinite(value):
        raise Unreadable("is not a finite number.")
    if column.transform == "log" and value <= 0:
        advice = f'Correct it, empty it, or take transform = "log" out of [metadata.{shown(column.name)}]'
        raise Unreadable("is not above 0, so that it has no logarithm.", advice)
    return value


def parse_category(cell: str, column: MetadataColumn, decimal: str) -> str:
    """A word, the same in upper and in lower case."""
    return normal_form(cell.casefold().upper())


def parse_birth_date(cell: str, column: MetadataColumn, decimal: str) -> float:
    """Age in years at the reference date."""
    readings = read_date(cell, column.formats)
    section = f"[metadata.{shown(column.name)}]"
    if not readings:
        advice = f"Add its format to {section} formats"
        raise Unreadable(f"matches none of {', '.join(column.formats)}.", advice)
    if len(set(readings.values())) > 1:
        both = " and ".join(f"{day} by {format}" for format, day in readings.items())
        raise Unreadable(f"is ambiguous: {both}.", f"Leave one of these formats in {section}")
    birth = next(iter(readings.values()))
    assert column.reference is not None  # _section_problems refuses a birth date without it
    age = (column.reference - birth).days / DAYS_PER_YEAR
    if age < 0:
        raise Unreadable(f"is {birth}, after the reference {column.reference} of {section}.")
    if age > OLDEST:
        raise Unreadable(
            f"is {birth}, which makes {age:.0f} years at the reference {column.reference} of {section}."
        )
    return age


def read_date(cell: str, formats: Sequence[str]) -> dict[str, date]:
    """The date that each matching format reads."""
    readings = {}
    for format in formats:
        try:
            readings[format] = datetime.strptime(cell, format).date()
        except ValueError:
            continue
    return readings


@dataclass(frozen=True)
class Kind:
    """A kind of metadata: its parser, whether its values are numbers, and the keys it needs and takes."""

    parse: Callable[[str, MetadataColumn, str], float | str]
    numeric: bool
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "number": Kind(parse_number, numeric=True, takes=("transform", "unit")),
    "category": Kind(parse_category, numeric=False),
    "birth-date": Kind(parse_birth_date, numeric=True, needs=("formats", "reference")),
}
