"""Which kinds of metadata mil-init guesses, and which columns it leaves out."""

from pathlib import Path

import pytest
from support.drafts import draft, flagged, with_column

from mil_toolkit.cohort.cohort import read_cohort


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
