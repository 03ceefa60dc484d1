"""How cells are written: formats of dates, and upper and lower case of words."""

from dataclasses import replace
from pathlib import Path

from support.cohort_files import TABLE, write

from mil_toolkit.cohort.cohort import read_cohort


def test_the_format_of_each_date_and_the_case_of_each_word_are_kept(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, TABLE.replace(",?,", ",F,")))
    assert {name: ways.tolist() for name, ways in cohort.spellings.items()} == {
        "age": ["%m/%d/%Y", "%d-%m-%Y", "%m/%d/%Y"],
        "sex": [None, "lower case", "upper case"],  # M is always written the same
    }
    assert cohort.select(["P3", "P2"]).spellings["age"].tolist() == ["%m/%d/%Y", "%d-%m-%Y"]


def test_columns_that_are_written_in_one_way_are_left_out(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, TABLE.replace("15-05-1952", "5/15/1952")))
    assert dict(cohort.spellings) == {}  # and M beside f are two words, not two ways of writing one


def test_missing_cells_are_not_written_in_any_way(tmp_path: Path) -> None:
    table = TABLE.replace("1/2/1960", "n/a").replace("1,M,", "1,F,")
    cohort = read_cohort(write(tmp_path, table))
    assert cohort.spellings["age"].tolist() == ["%m/%d/%Y", "%d-%m-%Y", None]
    assert cohort.spellings["sex"].tolist() == ["upper case", "lower case", None]


def test_the_digest_does_not_depend_on_the_way_of_writing(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path))
    assert cohort.spellings and replace(cohort, spellings={}).digest() == cohort.digest()
    one_format = read_cohort(write(tmp_path, TABLE.replace("15-05-1952", "5/15/1952")))
    assert not one_format.spellings and one_format.digest() == cohort.digest()
