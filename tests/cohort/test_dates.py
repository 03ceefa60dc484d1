"""Dates: centuries of years with two digits, formats that cannot be used, serial numbers."""

import logging
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cohort_files import problems

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.dates import problem_of_format, read_date, serial_day
from mil_toolkit.core.cells import DateCell

TOML = """\
[cohort]
name = "c"
table = "t.csv"
id = "ID"

[metadata.age]
column = "DOB"
kind = "birth-date"
formats = [{formats}]
reference = {reference}
"""


def cohort_of(
    folder: Path, cells: list[str], formats: str = '"%d.%m.%y"', reference: str = "2024-06-01"
) -> Path:
    rows = [f"P{row},{cell}" for row, cell in enumerate(cells, start=1)]
    (folder / "t.csv").write_text("\n".join(["ID,DOB", *rows]))
    (folder / "c.toml").write_text(TOML.format(formats=formats, reference=reference))
    return folder / "c.toml"


@given(st.dates(date(1921, 1, 1), date(2020, 12, 31)))
def test_two_digits_give_the_last_century_that_is_not_after_the_reference(birth: date) -> None:
    reference = date(2020, 12, 31)
    for format in ("%d.%m.%y", "%y-%m-%d"):
        assert read_date(birth.strftime(format), [format], reference) == {format: birth}


@pytest.mark.parametrize(
    ("cell", "latest", "expected"),
    [
        ("05.03.50", date(2024, 6, 1), date(1950, 3, 5)),
        ("05.03.68", date(2024, 6, 1), date(1968, 3, 5)),
        ("05.03.22", date(2024, 6, 1), date(2022, 3, 5)),
        ("02.06.24", date(2024, 6, 1), date(1924, 6, 2)),
        ("01.06.24", date(2024, 6, 1), date(2024, 6, 1)),
        ("05.03.99", date(1995, 6, 1), date(1899, 3, 5)),
        ("29.02.00", date(2024, 6, 1), date(2000, 2, 29)),
        ("29.02.24", date(2024, 2, 28), date(1924, 2, 29)),
    ],
)
def test_the_century_follows_from_the_latest_day(cell: str, latest: date, expected: date) -> None:
    assert read_date(cell, ["%d.%m.%y"], latest) == {"%d.%m.%y": expected}


def test_a_literal_percent_sign_is_not_a_year() -> None:
    assert read_date("%y 05.03.2050", ["%%y %d.%m.%Y"], date(2024, 6, 1)) == {
        "%%y %d.%m.%Y": date(2050, 3, 5)
    }


def test_chosen_centuries_are_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = ["05.03.50", "06.04.31", "07.05.61", "08.06.01", "?"]
    cohort = read_cohort(cohort_of(tmp_path, cells), images=False)
    assert cohort.metadata["age"]["P1"] == (date(2024, 6, 1) - date(1950, 3, 5)).days / 365.25
    assert cohort.metadata["age"]["P4"] == (date(2024, 6, 1) - date(2001, 6, 8)).days / 365.25
    (message,) = caplog.messages
    assert message == (
        "t.csv: DOB: 4 dates have a year with two digits (%y), read as 3 in 1900 to 1999 and"
        " 1 in 2000 to 2099: nobody is born after the reference 2024-06-01."
    )


def test_years_with_four_digits_are_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read_cohort(cohort_of(tmp_path, ["05.03.1950", "06.04.1931"], '"%d.%m.%Y", "%d.%m.%y"'), images=False)
    assert caplog.messages == []


def test_a_child_of_two_among_adults_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = ["05.03.50", "06.04.31", "07.05.61", "08.06.22"]
    read_cohort(cohort_of(tmp_path, cells), images=False)
    assert caplog.messages[1] == (
        "t.csv: DOB: 1 cell giving the age of a child among adults (perhaps the wrong century):"
        " '08.06.22' (row 5 (patient P4))."
    )


@pytest.mark.parametrize(
    ("format", "reason"),
    [
        ("%Y-%m-%d %z", "has a time zone (%z or %Z)"),
        ("%Y-%m-%d %Z", "has a time zone (%z or %Z)"),
        ("%d.%m.", "does not describe a complete date"),
        ("%m/%Y", "does not describe a complete date"),
        ("%q", "does not describe a complete date"),
        ("", "does not describe a complete date"),
        ("%d.%m.%y", None),
        ("%Y-%j", None),
        ("%%z %Y-%m-%d", None),
    ],
)
def test_a_format_is_refused_with_the_true_reason(format: str, reason: str | None) -> None:
    problem = problem_of_format(format)
    assert problem is None if reason is None else problem is not None and problem.startswith(reason)


def test_a_time_zone_in_a_cohort_is_refused(tmp_path: Path) -> None:
    path = cohort_of(tmp_path, ["1950-03-05 +0100"], '"%Y-%m-%d %z"')
    assert problems(path, images=False)[0].endswith(
        "formats: '%Y-%m-%d %z' has a time zone (%z or %Z), which a date of birth does not have;"
        " remove it from the cells."
    )


def test_a_serial_number_is_explained(tmp_path: Path) -> None:
    found = problems(cohort_of(tmp_path, ["18327"]), images=False)
    assert "'18327' matches none of the formats %d.%m.%y. A spreadsheet may store 1950-03-05" in found[0]
    assert serial_day("9192") == date(1925, 3, 1) and serial_day("9192.0") == date(1925, 3, 1)
    assert serial_day("0") is serial_day("1.5") is serial_day("999999") is serial_day("x") is None


def test_a_date_cell_needs_no_format() -> None:
    assert list(read_date(DateCell("1950-03-05"), ["%Y-%d-%m"]).values()) == [date(1950, 3, 5)]
    assert list(read_date(DateCell("1950-03-05 10:30:00"), []).values()) == [date(1950, 3, 5)]
