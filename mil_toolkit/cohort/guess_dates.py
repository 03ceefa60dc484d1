"""Guess the formats of a column of dates.

A column may mix formats, but cells of the same shape are all read with one format.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from mil_toolkit.cohort.dates import has_two_digit_year, read_date
from mil_toolkit.cohort.draft_lines import check, examples
from mil_toolkit.core.text import count_of, printable

DATE_FORMATS = (
    "%d/%m/%Y",  # if two formats read a whole column, the first of this list is taken, and flagged
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d.%m.%Y",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y-%m-%d %H:%M:%S",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d-%m-%y",
)


def readings_as_text(cell: str) -> dict[str, date]:
    """Return the date by each format that matches the text of a cell, even if it is stored as a date."""
    return read_date(str(cell), DATE_FORMATS)


def guess_formats(cells: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Return the formats that read the most cells of each shape, or None if a cell is not a date."""
    shapes: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        shapes[shape_of(cell)].append(cell)
    formats = {shape: _best_formats(members) for shape, members in shapes.items()}
    return formats if all(formats.values()) else None


def shape_of(cell: str) -> str:
    """Return the position of the year and the separators: 5/15/1942 and 11/3/1933 have the same shape."""
    return re.sub(r"\d{1,2}", "0", re.sub(r"\d{3,}", "Y", cell))


def _best_formats(cells: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that read the most cells; none if a cell is not a date at all."""
    readings = [readings_as_text(cell) for cell in cells]
    if not all(readings):
        return ()
    counts = Counter(format for reading in readings for format in reading)
    return tuple(format for format in DATE_FORMATS if counts[format] == max(counts.values()))


def check_formats(
    name: str, formats: Mapping[str, tuple[str, ...]], chosen: Mapping[str, str], cells: Sequence[str]
) -> Iterator[str]:
    """Yield the doubts about a column's formats: by shape, `formats` that fit best and the `chosen` one."""
    column = printable(name)
    if len(chosen) > 1:
        yield check(f"{column} is written in {len(chosen)} formats: {', '.join(chosen.values())}.")
    for shape, format in chosen.items():
        members = [cell for cell in cells if shape_of(cell) == shape]
        misfits = [cell for cell in members if not read_date(cell, [format])]
        if misfits:
            count = count_of(len(misfits), "cell does", "cells do")
            yield check(f"{column}: {count} not fit {format}, {examples(misfits)}.")
        if len(formats[shape]) > 1:
            both = " and ".join(formats[shape])
            yield check(
                f"{column}: cells such as {printable(repr(members[0]))} fit {both}; {format} is taken."
            )
        if has_two_digit_year(format):
            yield check(
                f"{column}: cells such as {printable(repr(members[0]))} have a year with two digits (%y);"
                " each is read in the last century in which the date is not after the reference."
            )
