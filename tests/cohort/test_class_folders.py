"""Images sorted into folders of classes: the message says which folders to name."""

from pathlib import Path

import pytest
from support.cohort_files import TOML, only_problem, problems, touch, write

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.draft import draft_cohort
from mil_toolkit.core.errors import DataError

PLACES = {"P1": "tumoral", "P2": "reactive", "P3": "tumoral"}


def sorted_by_class(folder: Path, prefix: str = "") -> Path:
    """A cohort whose patients' folders are in folders of classes."""
    path = write(folder, patients="")
    for patient, place in PLACES.items():
        touch(folder / "images" / prefix / place / patient / "a.png")
    return path


def test_class_folders_of_a_declared_cohort_are_one_problem(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path)
    assert only_problem(path) == (
        "images/reactive, images/tumoral are not folders of patients, but contain some. To read them,"
        ' list them in [cohort]: images = ["images/reactive", "images/tumoral"].'
    )
    path.write_text(TOML.replace('["images"]', '["images/reactive", "images/tumoral"]'))
    assert set(read_cohort(path).images) == {"P1", "P2", "P3"}


def test_deeper_class_folders_are_seen_too(tmp_path: Path) -> None:
    path = sorted_by_class(tmp_path, "train")
    assert 'images = ["images/train/reactive", "images/train/tumoral"]' in only_problem(path)


def test_class_folders_beside_folders_of_patients(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P2 P3")
    touch(tmp_path / "images/train/tumoral/P1/a.png")
    advice = '["images", "images/train/tumoral"]'
    assert only_problem(path).endswith(f"images = {advice}.")
    path.write_text(TOML.replace('["images"]', advice))
    assert read_cohort(path).image_names["P1"] == ("a.png",)


def test_a_copy_of_folders_that_are_read_anyway_is_not_a_class(tmp_path: Path) -> None:
    path = write(tmp_path)
    touch(tmp_path / "images/backup/P1/a.png")
    assert only_problem(path) == "images/backup has no row in table.csv."


def test_a_link_of_a_folder_to_itself_ends(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "images/other").mkdir()
    (tmp_path / "images/other/self").symlink_to(tmp_path / "images/other")
    assert problems(path) == ["images/other has no row in table.csv."]


TABLES = {
    "folders named as the classes": "ID,diagnosis\nP1,tumoral\nP2,reactive\nP3,tumoral\nP4,reactive\n",
    "folders named otherwise": "ID,diagnosis\nP1,1\nP2,0\nP3,1\nP4,0\n",
}


@pytest.mark.parametrize("prefix", ["", "train"])
@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_draft_from_class_folders_is_refused(
    tmp_path: Path, table: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text(table)
    for number in range(1, 5):
        touch(Path("images", prefix, ("reactive", "tumoral")[number % 2], f"P{number}", "a.png"))
    with pytest.raises(DataError) as caught:
        draft_cohort(Path("table.csv"), [Path("images")], Path("cohort.toml"))
    root = f"images/{prefix}".rstrip("/")
    (problem,) = caught.value.problems
    assert "are not patients' folders: the folders in them (P1, P2, P3, P4) are those of column ID" in problem
    assert problem.endswith(f"mil-init table.csv {root}/reactive {root}/tumoral")
    assert not Path("cohort.toml").exists()
    folders = [Path(root, "reactive"), Path(root, "tumoral")]
    assert draft_cohort(Path("table.csv"), folders, Path("cohort.toml")).problems == ()


def test_folders_of_slides_below_patients_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("ID,stage,LABEL\nP1,1,0\nP2,2,1\nP3,3,0\nP4,4,1\n")
    for patient in ("P1", "P2", "P3", "P4"):
        for slide in "1234":
            touch(tmp_path / "images" / patient / slide / "a.png")
    output = tmp_path / "cohort.toml"
    assert draft_cohort(tmp_path / "table.csv", [tmp_path / "images"], output).problems == ()
    assert 'id = "ID"' in output.read_text()
