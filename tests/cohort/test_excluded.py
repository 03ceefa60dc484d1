"""Classes of several words, and rows of other classes that are left out."""

import logging
from pathlib import Path

import pytest
from support.cohort_files import only_problem, problems, touch, write

from mil_toolkit.cohort.cohort import Cohort, read_cohort

TABLE = """\
ID,LABEL,AGE
P1,CLL,50
P2,MCL,51
P3,reactive,52
P4,healthy,53
P5,HCL,not read
P6,AML,?
P7,,54
P8,unclear,55
P9,HCL,56
"""
TOML = """\
[cohort]
name = "many"
table = "table.csv"
images = ["images"]
id = "ID"
label = "LABEL"
positive = ["CLL", "MCL"]
negative = ["reactive", "healthy"]
unlabelled = ["", "unclear"]
exclude = ["HCL", "AML"]
[metadata.age]
column = "AGE"
kind = "number"
"""
PATIENTS = "P1 P2 P3 P4 P7 P8"


def labels(cohort: Cohort) -> dict[str, int]:
    return dict(zip(cohort.patient_ids, cohort.labels.tolist(), strict=True))


def test_a_class_may_have_several_words(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, TABLE, TOML, PATIENTS))
    assert labels(cohort) == {"P1": 1, "P2": 1, "P3": 0, "P4": 0, "P7": -1, "P8": -1}
    assert cohort.class_names == ("reactive or healthy", "CLL or MCL")
    assert cohort.outcome.class_words == (("reactive", "healthy"), ("CLL", "MCL"))


def test_excluded_rows_are_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, TABLE, TOML, PATIENTS)
    with caplog.at_level(logging.INFO, "mil_toolkit"):
        read_cohort(path)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["table.csv: leaving out 3 rows by exclude: 2 'HCL', 1 'AML'"]
    caplog.clear()
    read_cohort(path, log=False)
    assert not caplog.records


def test_a_cohort_is_the_same_whether_rows_are_excluded_or_absent(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    one = read_cohort(write(tmp_path / "one", TABLE, TOML, PATIENTS))
    (tmp_path / "other").mkdir()
    kept = "".join(f"{row}\n" for row in TABLE.splitlines() if "HCL" not in row and "AML" not in row)
    toml = TOML.replace('exclude = ["HCL", "AML"]\n', "")
    other = read_cohort(write(tmp_path / "other", kept, toml, PATIENTS))
    assert one.digest() == other.digest() and one.image_names == other.image_names


def test_numbers_and_single_words_can_be_excluded(tmp_path: Path) -> None:
    table = "ID,LABEL,AGE\nP1,1,5\nP2,0,6\nP3,2.0,7\nP4,3,8\n"
    toml = TOML[: TOML.index("positive")] + 'positive = 1\nnegative = [0]\nexclude = [2, "3"]\n'
    assert labels(read_cohort(write(tmp_path, table, toml, "P1 P2"))) == {"P1": 1, "P2": 0}
    single = toml.replace('exclude = [2, "3"]', "exclude = 2")
    row = "table.csv, row 5 (patient P4): LABEL '3' is not one of 0 (negative), 1 (positive), 2 (exclude)."
    assert problems(write(tmp_path, table, single, "P1 P2 P4")) == [row]


def test_folders_of_excluded_patients_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE, TOML, f"{PATIENTS} P5 P6")
    assert set(read_cohort(path).images) == set(PATIENTS.split())
    touch(tmp_path / "images/P10/a.png")
    assert only_problem(path) == "images/P10 has no row in table.csv."


def test_rows_of_excluded_patients_in_an_image_table_are_passed_over(tmp_path: Path) -> None:
    toml = TOML.replace('images = ["images"]', 'image_table = "images.csv"')
    path = write(tmp_path, TABLE, toml, f"{PATIENTS} P5")
    rows = [f"{patient},images/{patient}/a.png" for patient in f"{PATIENTS} P5".split()]
    (tmp_path / "images.csv").write_text("\n".join(["patient,path", *rows, "P6,images/P6/gone.png"]) + "\n")
    assert set(read_cohort(path).images) == set(PATIENTS.split())


def test_a_patient_who_is_excluded_in_one_row_only_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE + "P1,HCL,50\n", TOML, PATIENTS)
    assert only_problem(path) == "table.csv, row 11: patient P1 is excluded here, but not in row 2."


def test_a_table_whose_rows_are_all_excluded_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "ID,LABEL,AGE\nP5,HCL,1\nP6,AML,1\n", TOML, "")
    assert "table.csv: exclude leaves out all 2 rows." in problems(path)
