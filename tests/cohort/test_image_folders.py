"""Images in a folder for each patient: names, links and folders that cannot be read."""

import os
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cohort_files import TABLE, TOML, only_problem, problems, touch, write
from support.users import as_nobody, needs_root

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import UsageError


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
    with pytest.raises(UsageError, match="images/P1 cannot be read: permission denied: it belongs to"):
        read_cohort(path)


@needs_root
@pytest.mark.parametrize("folder", ["images", "images/P1", "images/P2"])
def test_folders_of_a_colleague_name_whom_to_ask(folder: str) -> None:
    """All of them in one run, with the other problems."""
    with tempfile.TemporaryDirectory() as name:  # everyone may search its parents, unlike those of tmp_path
        root = Path(name)
        root.chmod(0o755)
        path = write(root, TABLE + "3,P4,1,M,1/2/1960,4,Nice\n")
        (root / "images/P3").chmod(0o000)
        (root / folder).chmod(0o000)
        text = as_nobody(lambda: read_cohort(path))
    assert (
        "UsageError" in text and f"{root / folder} cannot be read: permission denied: it belongs to" in text
    )
    if folder != "images":
        assert f"{root / 'images/P3'} cannot be read" in text and "patient P4 has no images" in text


def test_names_with_terminal_escapes_and_lines_are_shown_escaped(tmp_path: Path) -> None:
    path = write(tmp_path)
    touch(tmp_path / "images" / "P1" / "\x1b[31mred\n.txt")
    touch(tmp_path / "images" / "\x1b[2Jclear" / "a.png")
    (tmp_path / "images" / "P2" / "\x1b[1m.png").symlink_to("nothing")
    found = problems(path)
    assert len(found) == 2 and all(problem.isprintable() and "\\x1b[" in problem for problem in found)


def test_a_name_that_is_not_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    path = write(tmp_path)
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/\xff\xfe/a.png")))
    assert only_problem(path) == r"images/\udcff\udcfe has no row in table.csv."


def test_a_patient_without_images_may_be_left_to_the_caller(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P1 P2")
    assert only_problem(path) == "table.csv: patient P3 has no images in images."
    cohort = read_cohort(path, complete=False)
    assert "P3" in cohort.patient_ids and {*cohort.images} == {*cohort.image_names} == {"P1", "P2"}


def test_a_patients_folder_that_is_a_loop_of_links_has_no_images(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P1 P2")
    (tmp_path / "images/P3").symlink_to("P3x")
    (tmp_path / "images/P3x").symlink_to("P3")
    assert only_problem(path) == "table.csv: patient P3 has no images in images."


@pytest.mark.parametrize(
    "root", ["a\\u0000b", "x" * 300, "images/P1/a.png", "/dev/zero", "loop", "\\u001b[31m"]
)
def test_an_image_folder_that_cannot_be_one_is_a_sentence(tmp_path: Path, root: str) -> None:
    path = write(tmp_path, toml=TOML.replace('["images"]', f'["{root}"]'))
    (tmp_path / "loop").symlink_to("loop")
    found = problems(path)
    assert len(found) == 1 and found[0].isprintable()


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
