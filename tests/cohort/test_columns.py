"""Ids, labels, groups and metadata values: every cell that cannot be used is reported with its row."""

from pathlib import Path

import pytest
from support.cohort_files import TABLE, TOML, problems, write

from mil_toolkit.cohort.cohort import read_cohort


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("P2,0", "P1,0", "row 3: patient P1 already appears in row 2."),
        ("P2,0", "NA,0", "row 3: no id in column 'ID'."),
        (
            "P2,0",
            "P2,2",
            "row 3 (patient P2): LABEL '2' is not one of 0 (negative), 1 (positive), -1 (unlabelled).",
        ),
        (
            "P2,0",
            "P2,NaN",
            "row 3 (patient P2): no label in 'LABEL'. Fill it in, or declare unlabelled = \"NaN\"",
        ),
        ("4,Lyon", "4,", "row 3 (patient P2): no group in 'HOSPITAL'. Each row needs a group;"),
        ("4,Lyon", "4,Lyon,more", "row 3: 8 cells, but the header has 7."),
        ("4,Lyon", "4", "row 3: 6 cells, but the header has 7."),
        ("12.8", "many", "row 2 (patient P1): LYMPH_COUNT 'many' is not a finite number."),
        ("12.8", "inf", "LYMPH_COUNT 'inf' is not a finite number."),
        ("12.8", "1e999", "LYMPH_COUNT '1e999' is not a finite number."),
        ("12.8", "1_000", "LYMPH_COUNT '1_000' is not a finite number."),
        ("12.8", "0", "LYMPH_COUNT '0' is not above 0, so it has no logarithm."),
        ("12.8", '"12,8"', "LYMPH_COUNT '12,8' contains a comma."),
        ("5/15/1942", "31/12/1950", "DOB '31/12/1950' matches none of the formats %m/%d/%Y, %d-%m-%Y."),
        ("5/15/1942", "2/30/1950", "DOB '2/30/1950' matches none of the formats"),
        (
            "5/15/1942",
            "1/1/2021",
            "DOB '1/1/2021' is 2021-01-01, which is after the reference 2020-12-31 of [metadata.age].",
        ),
        (
            "5/15/1942",
            "1/1/1890",
            "DOB '1/1/1890' is 1890-01-01, which gives an age of 131 years at the reference 2020-12-31",
        ),
        ("GENDER", "SEX", "table.csv has no column 'GENDER' ([metadata.sex] column). Known: '', 'ID'"),
        (
            "GENDER",
            "GENDRE",
            "table.csv has no column 'GENDER' ([metadata.sex] column). Did you mean 'GENDRE'?",
        ),
        (
            "HOSPITAL",
            "GENDER",
            "table.csv has 2 columns 'GENDER' ([metadata.sex] column); rename all but one.",
        ),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(write(tmp_path, TABLE.replace(old, new)))
    assert any(expected in problem for problem in found), found


def test_advice_follows_its_rows_once(tmp_path: Path) -> None:
    table = TABLE.replace("5/15/1942", "31/12/1950").replace("1/2/1960", "30/12/1950")
    path = write(tmp_path, table)
    assert problems(path) == [
        "table.csv, row 2 (patient P1): DOB '31/12/1950' matches none of the formats %m/%d/%Y, %d-%m-%Y.",
        "table.csv, row 4 (patient P3): DOB '30/12/1950' matches none of the formats %m/%d/%Y, %d-%m-%Y.",
        f"Add its format to [metadata.age] formats in {path}.",
    ]


def test_a_problem_of_most_rows_is_reported_once_with_examples(tmp_path: Path) -> None:
    rows = [f"P{number},tumoral,{number}.1.1950" for number in range(1, 10)]
    toml = TOML[: TOML.index("[metadata")] + (
        '[metadata.age]\ncolumn = "DOB"\nkind = "birth-date"\n'
        'formats = ["%d/%m/%Y"]\nreference = 2020-12-31\n'
    )
    toml = toml.replace('group = "HOSPITAL"\n', "")
    path = write(tmp_path, "\n".join(["ID,LABEL,DOB", *rows]), toml, patients="Q1 Q2 Q3 Q4 Q5 Q6")
    labels, ages, advice, folders, images = problems(path)
    assert labels.startswith("9 of 9 labels are not one of ")
    assert "table.csv, row 2 (patient P1): LABEL 'tumoral'" in labels and labels.endswith(" and 4 more.")
    assert ages.startswith(
        "9 of 9 cells cannot be read: each matches none of the formats %d/%m/%Y. Affected: table.csv, row 2 "
    )
    assert advice == f"Add its format to [metadata.age] formats in {path}."
    named = "images/Q1, images/Q2, images/Q3, images/Q4, images/Q5 and 1 more."
    assert (
        folders
        == f"6 of 6 folders have no row in table.csv. Does it belong to these images? Affected: {named}"
    )
    assert images == "9 of 9 patients of table.csv have no images in images: P1, P2, P3, P4, P5 and 4 more."


SCALES = "ID,L,MPP\nP1,1,0.25\nP2,0,0.5\nP3,0,\n"
SCALED = """\
[cohort]
name = "scaled"
table = "table.csv"
id = "ID"
label = "L"
positive = 1
negative = 0
microns_per_pixel = "MPP"
"""


def test_the_scale_of_images_may_differ_between_patients(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, SCALES, SCALED, ""), images=False)
    assert cohort.scales == {"P1": 0.25, "P2": 0.5} and cohort.microns_per_pixel is None
    assert cohort.select(["P2"]).scales == {"P2": 0.5} and cohort.select(["P2"]).microns_per_pixel == 0.5
    assert cohort.select(["P1", "P3"]).microns_per_pixel is None
    number = SCALED.replace('"MPP"', "0.125")
    same = read_cohort(write(tmp_path, SCALES, number, ""), images=False)
    assert same.scales == dict.fromkeys(("P1", "P2", "P3"), 0.125) and same.microns_per_pixel == 0.125
    comma = SCALED + 'decimal = ","\nseparator = ";"\n'
    table = SCALES.replace(",", ";").replace(".", ",")
    assert read_cohort(write(tmp_path, table, comma, ""), images=False).scales == cohort.scales


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.5", "0", "row 3 (patient P2): MPP '0' is not a positive number of micrometres per pixel."),
        ("0.5", "-0.5", "row 3 (patient P2): MPP '-0.5' is not a positive number of micrometres per pixel."),
        ("0.5", "inf", "row 3 (patient P2): MPP 'inf' is not a finite number."),
        ("0.5", "coarse", "row 3 (patient P2): MPP 'coarse' is not a finite number."),
        ("0.5", '"0,5"', "row 3 (patient P2): MPP '0,5' contains a comma"),
        (
            "MPP",
            "mpp",
            "table.csv has no column 'MPP' ([cohort] microns_per_pixel). Known: 'ID', 'L', 'mpp'.",
        ),
        ("ID,L,MPP", "MPP,L,MPP", "table.csv has 2 columns 'MPP' ([cohort] microns_per_pixel)"),
    ],
)
def test_scales_that_cannot_be_read_are_reported(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(write(tmp_path, SCALES.replace(old, new), SCALED, ""), images=False)
    assert any(expected in problem for problem in found), found
