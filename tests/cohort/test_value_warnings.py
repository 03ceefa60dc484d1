"""Warnings of implausible values in a declared cohort."""

from pathlib import Path

import pytest
from support.cohort_files import TABLE, TOML, problems, write

from mil_toolkit.cohort.cohort import read_cohort


def warnings_of(folder: Path, caplog: pytest.LogCaptureFixture, table: str, toml: str = TOML) -> list[str]:
    read_cohort(write(folder, table, toml))
    return caplog.messages


def test_a_usual_cohort_has_no_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(tmp_path, caplog, TABLE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("12.8", "-999", "LYMPH_COUNT: 1 cell perhaps standing for a missing value: '-999' (row 2"),
        ("12.8", "9999", "LYMPH_COUNT: 1 cell perhaps standing for a missing value: '9999' (row 2"),
        ("12.8", "-2", "LYMPH_COUNT: 1 cell below zero: '-2' (row 2 (patient P1))."),
        ("5/15/1942", "1/1/1900", "DOB: 1 cell perhaps standing for an unknown date: '1/1/1900' (row 2"),
        ("5/15/1942", "5/16/2018", "DOB: 1 cell giving the age of a child among adults"),
    ],
)
def test_an_implausible_value_is_a_warning_with_its_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str, expected: str
) -> None:
    toml = TOML.replace('transform = "log"\n', "")
    (message,) = warnings_of(tmp_path, caplog, TABLE.replace(old, new), toml)
    assert message.startswith(f"table.csv: {expected}")


def test_warnings_of_values_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_cohort(write(tmp_path, TABLE.replace("5/15/1942", "1/1/1900")), log=False)
    assert caplog.messages == []


def test_a_title_above_the_header_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(tmp_path, caplog, "Liste 2023,,,,,,\n" + TABLE)
    assert message.startswith("row 2 of table.csv is read as the header (")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (">89", "is a limit, not a number. Write the value to use in its place, or empty the cell."),
        ("≤ 3", "is a limit, not a number."),
        ("n.d.", "is not a finite number."),
        ('"1,234"', "contains a comma, so it is 1.234 or 1234."),
    ],
)
def test_an_unreadable_number_stays_an_error(tmp_path: Path, cell: str, expected: str) -> None:
    assert expected in problems(write(tmp_path, TABLE.replace("12.8", cell)))[0]


@pytest.mark.parametrize("cell", ["-", "\u2013", "k.A.", "n.a.", "#N/A"])
def test_a_dash_in_a_number_or_date_is_missing(tmp_path: Path, cell: str) -> None:
    table = TABLE.replace("12.8", cell).replace("5/15/1942", cell)
    assert read_cohort(write(tmp_path, table)).metadata.loc["P1", ["age", "count"]].isna().all()
