"""Images in a folder for each patient: names, links and folders that cannot be read."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cohort_files import TABLE, TOML, only_problem, problems, touch, write

from mil_toolkit.cohort.cohort import read_cohort


def test_several_roots_are_joined(tmp_path: Path) -> None:
    path = write(tmp_path, toml=TOML.replace('["images"]', '["images", "more/"]'))
    touch(tmp_path / "more/P1/a.png")
    cohort = read_cohort(path)
    assert cohort.image_names["P1"] == ("images/a.png", "images/b.JPG", "more/a.png")
    assert cohort.image_names["P2"] == ("a.png", "b.JPG")


@pytest.mark.parametrize(("table_form", "folder_form"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_ids_and_folders_match_whatever_their_normal_form(
    tmp_path: Path, table_form: str, folder_form: str
) -> None:
    def form(kind: str) -> str:
        return unicodedata.normalize(kind, "Zoé")  # type: ignore[arg-type]

    path = write(tmp_path, TABLE.replace("P1", form(table_form)), patients="P2 P3")
    touch(tmp_path / "images" / form(folder_form) / "a.png")
    cohort = read_cohort(path)
    assert cohort.patient_ids[0] == form("NFC")
    assert cohort.images[form("NFC")] == (tmp_path / "images" / form(folder_form) / "a.png",)
    assert len(cohort.select([form("NFC")])) == 1


def test_two_folders_of_one_patient_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.replace("P1", "é"), patients="P2 P3")
    for kind in ("NFC", "NFD"):
        touch(tmp_path / "images" / unicodedata.normalize(kind, "é") / "a.png")  # type: ignore[arg-type]
    assert only_problem(path) == "images/é is a second folder of patient é in images."


def test_names_that_are_not_unicode_survive(tmp_path: Path) -> None:
    path = write(tmp_path)
    name = os.fsdecode(b"caf\xe9.png")
    touch(tmp_path / "images/P1" / name)
    cohort = read_cohort(path)
    assert name in cohort.image_names["P1"]
    assert all(image.exists() for image in cohort.images["P1"])
    (tmp_path / "images" / os.fsdecode(b"P\xe9")).mkdir()
    problem = only_problem(path)
    assert problem == r"images/P\udce9 has no row in table.csv."
    problem.encode()  # can be printed


def test_circles_of_links_are_followed_once(tmp_path: Path) -> None:
    path = write(tmp_path)
    folder = tmp_path / "images/P1"
    for name in "abcdefgh":  # each links to all others: walking every way through them would never end
        (folder / name).mkdir()
        touch(folder / name / f"{name}.png")
        for other in "abcdefgh":
            (folder / name / f"to {other}").symlink_to(folder / other)
    (folder / "up").symlink_to(tmp_path / "images/P1")
    assert len(read_cohort(path).images["P1"]) == 2 + 8, "each image counts once"


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P2 P3")
    touch(tmp_path / "disk/x.png")
    (tmp_path / "images/P1").symlink_to(tmp_path / "disk")
    assert read_cohort(path).image_names["P1"] == ("x.png",)


def test_broken_links_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "images/P1/x.png").symlink_to("nowhere.png")
    (tmp_path / "images/P2/y.png").symlink_to("y.png")
    os.mkfifo(tmp_path / "images/P3/pipe.png")
    found = problems(path)
    assert [problem.split()[0].rsplit("/", 2)[1] for problem in found] == ["P1", "P2", "P3"]
    assert all(problem.endswith("is not a regular file, or is a broken link.") for problem in found)


def test_a_folder_without_read_permission_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, scandir = write(tmp_path), os.scandir

    def forbid(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder.name == "P1":  # where permissions are real, root has them all
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbid)
    assert problems(path)[0] == f"{tmp_path / 'images/P1'} cannot be read: Permission denied."


def test_image_folders_exist_and_are_listed_once(tmp_path: Path) -> None:
    path = write(tmp_path, toml=TOML.replace('["images"]', '["images", "./images", "none", "a\\u0000"]'))
    found = problems(path)
    assert len(found) == 3
    assert found[0] == "./images is listed twice in [cohort] images."
    assert found[1].startswith("none is not a folder")
    assert found[2].startswith(r"a\x00")


def test_an_id_never_leaves_the_root(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.replace("P1", ".."), patients="P2 P3")
    assert only_problem(path) == "table.csv: patient .. has no images in images."
