"""Which kinds of metadata mil-init guesses, and which columns it leaves out."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.drafts import draft, flagged, with_column

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.draft import Draft


def test_skewed_positive_numbers_get_a_logarithm(tmp_path: Path) -> None:
    section = draft(tmp_path / "a", with_column("N", "1", "2", "3", "900"))[1]["metadata"]["n"]
    assert section == {"column": "N", "kind": "number", "transform": "log"}
    assert (
        "transform" not in draft(tmp_path / "b", with_column("N", "0", "2", "3", "900"))[1]["metadata"]["n"]
    )
    assert (
        "transform" not in draft(tmp_path / "c", with_column("N", "5", "6", "7.5", "8"))[1]["metadata"]["n"]
    )


def test_a_code_is_flagged(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, with_column("STAGE", "1", "2", "3", "2"))
    assert document["metadata"]["stage"]["kind"] == "number"
    assert flagged(drafted, "STAGE has only 3 different numbers; if they are codes")


def test_a_decimal_comma_is_declared_and_flagged(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, with_column("N", '"1,5"', '"2,25"', "3", "n/a"))
    assert document["cohort"]["decimal"] == ","
    assert flagged(drafted, "decimal commas, not as thousands separators, for example '1,5', '2,25'")
    assert read_cohort(drafted.output).metadata["n"].tolist()[:3] == [1.5, 2.25, 3.0]


@pytest.mark.parametrize(
    ("header", "cells", "why"),
    [
        ("N", "7 7 7 7", "Left out: N, because it has the same value in every row"),
        ("N", "? ? ? ?", "Left out: N, because it is empty"),
        ("N", "0 1 2 3", "Left out: N, because it only numbers the rows"),
        ("SITE", "a b c a", "Left out: SITE, because the place where patients were seen"),
        ("", "5 6 7 9", "Left out: a column without a name"),
        ("N", "1e999 1 2 5", "CHECK: N is left out: some numbers are too large"),
        (
            "SEEN",
            "2020-01-01 2020-01-02 2020-01-03 2020-01-04",
            "CHECK: SEEN is left out: it contains dates, but its name",
        ),
        ("LABEL", "a b c d", "CHECK: LABEL appears 2 times in the header and is left out"),
    ],
)
def test_a_column_that_the_model_should_not_see_is_left_out_with_the_reason(
    tmp_path: Path, header: str, cells: str, why: str
) -> None:
    drafted, document = draft(tmp_path, with_column(header, *cells.split()))
    assert "metadata" not in document
    assert f"# {why}" in drafted.output.read_text()
    assert drafted.problems == ()


def test_free_text_is_left_out_and_flagged(tmp_path: Path) -> None:
    rows = [f"P{i},{i % 2},remark {i}" for i in range(30)]
    patients = " ".join(f"P{i}" for i in range(30))
    drafted, document = draft(tmp_path, "\n".join(["ID,LABEL,NOTE", *rows]), patients)
    assert "metadata" not in document
    assert flagged(
        drafted,
        "NOTE is left out: it has 30 different words, which are neither all numbers nor all dates, "
        "for example 'remark 0'",
    )


@pytest.mark.parametrize(
    ("header", "usual", "why"),
    [
        (
            "Geb.-Datum",
            "{:02d}.01.1950",
            "28 of 30 cells are dates, 2 are not, for example '> 200', 'unbekannt'",
        ),
        ("COUNT", "{}.5", "28 of 30 cells are numbers, 2 are not, for example '> 200', 'unbekannt'"),
        ("COUNT", '"{},5"', "28 of 30 cells are numbers, 2 are not, for example '> 200', 'unbekannt'"),
    ],
)
def test_cells_that_do_not_fit_the_others_are_shown(
    tmp_path: Path, header: str, usual: str, why: str
) -> None:
    cells = [*(usual.format(i) for i in range(1, 29)), "> 200", "unbekannt"]
    rows = [f"P{i},{i % 2},{cell}" for i, cell in enumerate(cells)]
    table, patients = "\n".join(["ID,LABEL," + header, *rows]), " ".join(f"P{i}" for i in range(30))
    drafted, document = draft(tmp_path, table, patients)
    assert "metadata" not in document
    assert flagged(drafted, why)


def test_a_hospital_is_proposed_as_a_group(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, with_column("HOSPITAL", "a", "b", "a", "b"))
    assert "group" not in document["cohort"]
    assert flagged(drafted, "does HOSPITAL group patients")
    grouped = drafted.output.read_text().replace("# group", "group")
    drafted.output.write_text(grouped)
    assert read_cohort(drafted.output).groups is not None


def test_a_word_that_occurs_in_one_row_is_flagged(tmp_path: Path) -> None:
    drafted, _ = draft(tmp_path, with_column("SEX", "M", "M", "f", "X"))
    assert flagged(drafted, "SEX has words that occur in only one row, for example 'F', 'X'")


def column_of(folder: Path, header: str, cells: list[str]) -> tuple[Draft, dict[str, Any]]:
    """Return the draft of a table, separated by semicolons, with this column."""
    rows = [f"P{row};{row % 2};{cell}" for row, cell in enumerate(cells, start=1)]
    patients = " ".join(f"P{row}" for row in range(1, len(cells) + 1))
    return draft(folder, "\n".join([f"ID;LABEL;{header}", *rows]), patients)


NUMBERS = [f"{number}.5" for number in range(1, 19)]
DATES = [f"{day:02d}.03.1950" for day in range(1, 19)]


@pytest.mark.parametrize(
    ("usual", "odd", "expected"),
    [
        (NUMBERS, [">89"], "18 of 19 cells are numbers, 1 is not, for example '>89' (row 20)"),
        (NUMBERS, ["n.d.", "neg."], "2 are not, for example 'n.d.', 'neg.' (rows 20, 21)"),
        (NUMBERS, ["<0.1", "-"], "18 of 19 cells are numbers, 1 is not, for example '<0.1' (row 20)"),
        (NUMBERS, ["5 G/L"], "1 is not, for example '5 G/L' (row 20)"),
        (NUMBERS, ["1,5"], "1 is not, for example '1,5' (row 20)"),
        (["1", "2", "1", "2", "1", "x"], [], "5 of 6 cells are numbers, 1 is not, for example 'x' (row 7)"),
        (["<1", "<2", ">9", "4"], [], "1 of 4 cells are numbers, 3 are not"),
        (DATES, ["31.02.1950"], "18 of 19 cells are dates, 1 is not, for example '31.02.1950' (row 20)"),
        (DATES, ["9192", "-"], "18 of 19 cells are dates, 1 is not, for example '9192' (row 20)"),
    ],
)
def test_odd_cells_among_numbers_or_dates_are_named_with_their_rows(
    tmp_path: Path, usual: list[str], odd: list[str], expected: str
) -> None:
    drafted, document = column_of(tmp_path, "X", [*usual, *odd])
    assert "metadata" not in document
    assert flagged(drafted, re.escape(expected))


@pytest.mark.parametrize("dash", ["-", "\u2013", "\u2014", "--", "n.a.", "k.A.", "null"])
def test_dashes_among_numbers_and_dates_are_missing(tmp_path: Path, dash: str) -> None:
    drafted, document = column_of(tmp_path / "n", "X", [*NUMBERS, dash])
    assert document["metadata"]["x"]["kind"] == "number"
    assert flagged(drafted, re.escape(f"X: {dash!r} is read as a missing value (row 20)"))
    values = read_cohort(drafted.output).metadata["x"]
    assert values.isna().tolist() == 18 * [False] + [True]
    drafted, document = column_of(tmp_path / "d", "DOB", [*DATES, dash])
    assert document["metadata"]["age"]["kind"] == "birth-date" and drafted.problems == ()


def test_dashes_among_words_are_words_and_flagged(tmp_path: Path) -> None:
    drafted, document = column_of(tmp_path, "PCR", ["+", "-", "+", "-"])
    assert document["metadata"]["pcr"]["kind"] == "category"
    assert read_cohort(drafted.output).metadata["pcr"].tolist() == ["+", "-", "+", "-"]
    assert flagged(drafted, "PCR: cells such as '-' are read as words .rows 3, 5.; empty them")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            ["980", "1.234", "15.600"],
            "'1.234' is read as 1.234, but is 1234 if the point separates thousands",
        ),
        (
            ["980", "1,234", "15,600"],
            "'1,234' is read as 1.234, but is 1234 if the comma separates thousands",
        ),
        (["-980", "-1.234", "15.600"], "'-1.234' is read as -1.234, but is -1234 if the point"),
    ],
)
def test_both_readings_of_three_digits_are_shown(tmp_path: Path, cells: list[str], expected: str) -> None:
    drafted, document = column_of(tmp_path, "X", cells)
    assert document["metadata"]["x"]["kind"] == "number"
    assert flagged(drafted, re.escape(expected)) and flagged(drafted, re.escape("(rows 3, 4)"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["980", "1'234", "15'600"], [980, 1234, 15600]),
        (["980", "1 234", "15\u00a0600"], [980, 1234, 15600]),
        (["980,5", "1\u202f234,5", "15"], [980.5, 1234.5, 15]),
        (["980,5", "1.234,5", "15.600.000"], [980.5, 1234.5, 15600000]),
    ],
)
def test_separated_thousands_are_read_and_flagged(
    tmp_path: Path, cells: list[str], expected: list[float]
) -> None:
    drafted, _ = column_of(tmp_path, "X", cells)
    assert read_cohort(drafted.output).metadata["x"].tolist() == expected
    assert flagged(drafted, "X: thousands are separated, so ")


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("DOB", ["9192", "12000", "13000", "8111"], "DOB is left out: .*'9192' may be 1925-03-01"),
        ("Geburtsjahr", ["1950", "1961", "1972", "1948"], "it holds years .'1950'., without a day"),
        ("DOB", ["01/01/1900", "13/05/1950", "14/06/1960"], "unknown date: '01/01/1900' .row 2."),
        ("X", ["5", "-999", "7.5"], "X: 1 cell perhaps standing for a missing value: '-999' .row 3."),
        ("COUNT", ["5", "-2", "7.5"], "COUNT: 1 cell below zero: '-2' .row 3."),
        ("Alter", ["55", "300", "71"], "Alter: 1 cell above an age of 130 years: '300' .row 3."),
        ("Alter", ["55", "2", "71"], "Alter: 1 cell far below the ages of the other patients"),
        ("DOB", ["05.03.50", "08.06.61"], "'05.03.50' have a year with two digits .%y."),
    ],
)
def test_implausible_values_are_flagged(tmp_path: Path, header: str, cells: list[str], expected: str) -> None:
    assert flagged(column_of(tmp_path, header, cells)[0], expected)
