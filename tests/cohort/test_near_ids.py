"""Ids that nearly match folders are shown side by side and never matched."""

from pathlib import Path

import pytest
from support.drafts import draft, flagged, write_data

from mil_toolkit.cohort.draft import draft_cohort
from mil_toolkit.cohort.near_ids import nearest_column
from mil_toolkit.core.errors import DataError


@pytest.mark.parametrize(
    ("cell", "folder"),
    [
        ("1.0", "1"),
        ("1", "0001"),
        ("p1", "P1"),
        ("P1", "P1 "),
        ("P 1", "P1"),
        ("P-1", "P_1"),
        ("P1\u200b", "P1"),
        ("P\uff11", "P1"),
        ("1", "P1"),
        ("Pat. 7", "P007"),
    ],
)
def test_the_closest_column_is_shown_with_its_cells_and_folders(
    tmp_path: Path, cell: str, folder: str
) -> None:
    table, images = write_data(tmp_path, f"Alter;Patient;L\n50;{cell};a\n60;zzz;b\n", "")
    (images / folder).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        draft_cohort(table, [images], tmp_path / "cohort.toml")
    (problem,) = caught.value.problems
    assert "contains the names of the folders" in problem
    shown = [ascii(text) if not text.isprintable() else repr(text) for text in (cell, folder)]
    assert "Closest is 'Patient', with " in problem
    assert f"for the folder {shown[1]}. Ids and folder names must be the same;" in problem
    assert not (tmp_path / "cohort.toml").exists()


def test_a_column_that_names_a_few_folders_does_not_win_against_one_that_nearly_names_all(
    tmp_path: Path,
) -> None:
    rows = "".join(f"{row}.0;{row % 2}\n" for row in range(1, 9))
    with pytest.raises(DataError, match=r"Closest is 'Nr', with '1\.0' for the folder '1'"):
        draft(tmp_path, "Nr;Diagnose\n" + rows, "1 2 3 4 5 6 7 8")


def test_single_ids_that_nearly_match_are_flagged(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "ID,LABEL\nP1,1\nP2,0\nP3,1\nP4,0\n", "P1 P2 p3 P04")
    assert document["cohort"]["id"] == "ID"
    assert flagged(drafted, "there is 'P3' for the folder 'p3', 'P4' for the folder 'P04'")


def test_ids_without_any_likeness_have_no_closest_column() -> None:
    assert nearest_column({"ID": ["abc", ""]}, ["xyz"]) is None


def test_a_column_that_nearly_matches_does_not_compete_with_one_that_matches(tmp_path: Path) -> None:
    _, document = draft(tmp_path, "Code,Patient,LABEL\np1,P1,1\np2,P2,0\np3,P3,1\np4,P4,0\n")
    assert document["cohort"]["id"] == "Patient"
