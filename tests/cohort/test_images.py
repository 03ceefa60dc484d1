"""The image files of patients, and the warning about files that are not images."""

import logging
from pathlib import Path

import pytest
from support.cohort_files import TABLE, only_problem, problems, touch, write

from mil_toolkit.cohort.cohort import read_cohort


def test_images_are_found_below_the_patients_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mil_toolkit")
    logger.propagate = True  # a command that ran before has turned it off
    path = write(tmp_path)
    for name in (
        "P1/slide 2/c.tiff",
        "P1/notes.txt",
        "P1/.hidden.png",
        "P1/.cache/d.png",
        "readme.md",
        ".DS_Store",
    ):
        touch(tmp_path / "images" / name)
    touch(tmp_path / "images/.ipynb_checkpoints/x.png")
    cohort = read_cohort(path)
    assert cohort.image_names["P1"] == ("a.png", "b.JPG", "slide 2/c.tiff")
    assert cohort.images["P1"][2] == tmp_path / "images/P1/slide 2/c.tiff"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3 and messages[0].startswith("Ignoring 2 files without an image extension: ")
    assert "images/readme.md" in messages[0] and "notes.txt" in messages[0]
    hidden = f"images/.DS_Store, {tmp_path / 'images/P1/.hidden.png'}"
    assert messages[1] == f"Ignoring 2 hidden files: {hidden}"
    nested = tmp_path / "images/P1/slide 2"
    assert messages[2] == f"Also reading the images in 1 folder below patients' folders: {nested}"


SYSTEM_FOLDERS = [
    "@eaDir",
    "thumbs",
    "Thumbnails",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "#recycle",
]


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_system_folders_are_passed_over_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = write(tmp_path)
    expected = read_cohort(path).image_names
    touch(tmp_path / "images" / name / "P1/a.png")
    touch(tmp_path / "images/P1" / name / "a.png")
    touch(tmp_path / "images/P2" / name / "deeper/a.png")
    assert read_cohort(path).image_names == expected
    folders = f"{tmp_path / 'images/P1' / name}, {tmp_path / 'images/P2' / name}"
    assert [record.getMessage() for record in caplog.records] == [
        f"Ignoring 3 system folders: images/{name}, {folders}"
    ]


@pytest.mark.parametrize("name", [".thumbnails", ".ipynb_checkpoints", ".AppleDouble", ".@__thumb"])
def test_hidden_folders_are_passed_over(tmp_path: Path, name: str) -> None:
    path = write(tmp_path)
    expected = read_cohort(path).image_names
    touch(tmp_path / "images/P1" / name / "a.png")
    assert read_cohort(path).image_names == expected


def test_a_patient_may_be_called_like_a_system_folder(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.replace("P1", "thumbs"), patients="thumbs P2 P3")
    assert read_cohort(path).image_names["thumbs"] == ("a.png", "b.JPG")


def test_a_hidden_file_with_an_image_extension_is_called_hidden(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    hidden = [touch(tmp_path / "images/P1" / name) for name in ("._a.jpg", "._b.JPG")]
    touch(tmp_path / "images/P1/Thumbs.db")
    touch(tmp_path / "images/desktop.ini")
    assert read_cohort(path).image_names["P1"] == ("a.png", "b.JPG")
    assert [record.getMessage() for record in caplog.records] == [
        f"Ignoring 2 hidden files: {hidden[0]}, {hidden[1]}"
    ]


def test_many_folders_below_patients_folders_are_named_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    for number in range(12):
        touch(tmp_path / "images/P1" / f"slide {number:02d}" / "deep" / "x.png")
    assert len(read_cohort(path).image_names["P1"]) == 14
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Also reading the images in 12 folders below patients' folders: ")
    assert message.count("/deep") == 10 and message.endswith(", ...")


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp", "JPG", "Png"])
def test_image_endings(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path)
    touch(tmp_path / "images/P1" / f"z.{ending}")
    assert read_cohort(path).image_names["P1"][-1] == f"z.{ending}"


def test_a_patient_with_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P1 P2")
    touch(tmp_path / "images/P3/notes.txt")
    assert only_problem(path) == "table.csv: patient P3 has no images in images."


def test_the_patients_of_a_missing_image_folder_are_not_reported_one_by_one(tmp_path: Path) -> None:
    found = problems(write(tmp_path, patients=""))
    assert len(found) == 1 and found[0].startswith("images is not a folder")


def test_the_warning_about_ignored_files_can_be_switched_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    touch(tmp_path / "images/P1/notes.txt")
    quiet = read_cohort(path, log=False)
    assert not caplog.records
    assert read_cohort(path).images == quiet.images
    assert [record.getMessage() for record in caplog.records] == [
        f"Ignoring 1 file without an image extension: {tmp_path / 'images/P1/notes.txt'}"
    ]
