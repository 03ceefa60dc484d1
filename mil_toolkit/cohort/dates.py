"""Read dates by formats of `strptime`, and choose the century of years with two digits."""

import re
from collections.abc import Sequence
from datetime import date, datetime

from mil_toolkit.core.cells import DateCell

EXAMPLE_DAY = datetime(1987, 11, 23)
DATE_CELL = "a spreadsheet's date"  # stands for the format of a cell that needs none
SERIAL_START = date(1899, 12, 30)  # day 0 of spreadsheets
SERIALS = range(1, 80_000)


def read_date(cell: str, formats: Sequence[str], latest: date | None = None) -> dict[str, date]:
    """Return the date as read with each format that matches.

    latest: the day after which no date lies, by which the century of a year with two digits is chosen;
        without it, `strptime` chooses
    """
    if isinstance(cell, DateCell):
        return {DATE_CELL: cell.day}
    readings = {}
    for format in formats:
        try:
            day = datetime.strptime(cell, format).date()
        except ValueError:
            continue
        two_digits = latest is not None and has_two_digit_year(format)
        readings[format] = _in_century(day, latest) if two_digits and latest else day
    return readings


def has_two_digit_year(format: str) -> bool:
    """Return whether a format reads a year with two digits."""
    return "%y" in format.replace("%%", "")


def _in_century(day: date, latest: date) -> date:
    """Return the last day of this name that is not after `latest`; `day` itself if no century has it."""
    years = range(latest.year, 0, -1)
    same = (year for year in years if (year - day.year) % 100 == 0)
    for year in list(same)[:2]:
        try:
            moved = day.replace(year=year)
        except ValueError:  # 29 February
            continue
        if moved <= latest:
            return moved
    return day


def problem_of_format(format: str) -> str | None:
    """Return why a format cannot read dates of birth, or None if it can."""
    if re.search("%[zZ]", format.replace("%%", "")):
        return "has a time zone (%z or %Z), which a date of birth does not have; remove it from the cells"
    try:
        complete = datetime.strptime(EXAMPLE_DAY.strftime(format), format) == EXAMPLE_DAY
    except (ValueError, re.error):  # the latter for a directive that is repeated
        complete = False
    return None if complete else "does not describe a complete date; use a format such as %d/%m/%Y"


def serial_day(cell: str) -> date | None:
    """Return the date of a whole number that a spreadsheet may show for it, or None."""
    number = re.fullmatch(r"(\d{1,5})(?:[.,]0+)?", cell, re.ASCII)
    if number is None or int(number[1]) not in SERIALS:
        return None
    return date.fromordinal(SERIAL_START.toordinal() + int(number[1]))
