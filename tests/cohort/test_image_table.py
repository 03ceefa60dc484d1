"""Images listed in an image table."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.cohort_files import TOML, only_problem, problems, touch, write
from support.users import as_nobody, needs_root

from mil_toolkit.cohort.cohort import read_cohort

IMAGE_TOML = TOML.replace('images = ["images"]', 'image_table = "images.csv"')


def of_table(folder: Path, rows: str) -> Path:
    """A cohort with an image table of these rows."""
    path = write(folder, toml=IMAGE_TOML)
    (folder / "images.csv").write_text("patient,path\n" + rows)
    return path


def test_an_image_table_names_the_images(tmp_path: Path) -> None:
    path = write(tmp_path, toml=IMAGE_TOML)
    rows = "path,patient\nimages/P1/b.JPG,P1\nimages/P1/a.png,P1\nimages/P2/a.png,P2\nimages/P3/./a.png,P3\n"
    (tmp_path / "images.csv").write_text(rows)
    cohort = read_cohort(path)
    assert cohort.image_names["P1"] == ("images/P1/a.png", "images/P1/b.JPG")
    assert cohort.images["P3"] == (tmp_path / "images/P3/a.png",)


def test_mistakes_in_an_image_table_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, toml=IMAGE_TOML)
    (tmp_path / "images.csv").write_text(
        "patient,path\nP1,images/P1/a.png\nP2,images/../images/P1/a.png\nP9,images/P1/b.JPG\n"
        "P2,images/none.png\nP2,table.csv\nP2\n"
    )
    assert problems(path) == [
        "images.csv, row 7: 1 cell, but the header has 2.",
        "images.csv, row 3: path 'images/../images/P1/a.png' is already an image of patient 'P1' in row 2.",
        "images.csv, row 4: patient 'P9' has no row in table.csv.",
        "images.csv, row 5: path 'images/none.png' is not a file.",
        "images.csv, row 6: path 'table.csv' has no image extension (.bmp .jpeg .jpg .png .tif .tiff .webp).",
        "table.csv: patient P2 has no images in images.csv.",
        "table.csv: patient P3 has no images in images.csv.",
    ]


def test_an_image_table_without_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, toml=IMAGE_TOML)
    assert "images.csv cannot be read" in only_problem(path)
    (tmp_path / "images.csv").write_text("patient,file\nP1,a.png\n")
    assert only_problem(path) == "images.csv needs the columns patient and path; it has 'patient', 'file'."


def listed(folder: Path, rows: Sequence[str]) -> Path:
    """A cohort whose image table has these rows, and good rows of P2 and P3."""
    path = write(folder, toml=IMAGE_TOML)
    good = ["P2,images/P2/a.png", "P3,images/P3/a.png"]
    (folder / "images.csv").write_text("\n".join(["patient,path", *rows, *good]) + "\n")
    return path


def test_paths_with_backslashes_are_read_with_slashes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = read_cohort(listed(tmp_path, [r"P1,images\P1\a.png", r"P1,images\P1/b.JPG"]))
    assert cohort.image_names["P1"] == ("images/P1/a.png", "images/P1/b.JPG")
    assert cohort.images["P1"][0] == tmp_path / "images/P1/a.png"
    assert [record.getMessage() for record in caplog.records] == [
        "images.csv: reading 2 paths with slashes instead of backslashes, as in images/P1/a.png"
    ]


def test_a_file_with_a_backslash_in_its_name_is_read_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = listed(tmp_path, [r"P1,images/P1\a.png"])
    (tmp_path / r"images/P1\a.png").touch()
    assert read_cohort(path).images["P1"] == (tmp_path / r"images/P1\a.png",)
    assert not caplog.records


def test_paths_with_backslashes_that_are_not_files_are_one_problem(tmp_path: Path) -> None:
    rows = [rf"P1,C:\images\{number}.png" for number in range(3)]
    found = only_problem(listed(tmp_path, ["P1,images/P1/a.png", *rows, "P1,images/P1/b.JPG"]))
    assert found == (
        "images.csv: 3 of 7 rows name a path with backslashes that is not a file; write paths relative to the"
        r" cohort.toml, with slashes: row 3 'C:\\images\\0.png', row 4 'C:\\images\\1.png',"
        r" row 5 'C:\\images\\2.png'."
    )


def test_a_mistake_of_most_rows_is_one_problem(tmp_path: Path) -> None:
    rows = [f"P1,elsewhere/{number}.png" for number in range(5000)]
    found = problems(listed(tmp_path, ["P1,images/P1/a.png", *rows]))
    assert len(found) == 1 and found[0].startswith(
        "images.csv: 5000 of 5003 rows name a path that is not a file; write paths relative to the"
        " cohort.toml, with slashes: row 3 'elsewhere/0.png', "
    )
    foreign = problems(listed(tmp_path, [f"Q{number},images/P1/a.png" for number in range(9)]))
    assert foreign[0].startswith(
        "images.csv: 9 of 11 rows name a patient who has no row in table.csv: row 2 "
    )


@pytest.mark.parametrize("alias", ["{folder}/images/P1/a.png", "./images/P2/../P1/a.png", "link.png"])
def test_a_file_that_is_listed_twice_is_refused_with_both_rows(tmp_path: Path, alias: str) -> None:
    (tmp_path / "link.png").symlink_to("images/P1/a.png")
    path = listed(tmp_path, ["P1,images/P1/a.png", f"P1,{alias}".format(folder=tmp_path)])
    alias = alias.format(folder=tmp_path)
    assert only_problem(path) == (
        f"images.csv, row 3: path {alias!r} already appears in row 2, as 'images/P1/a.png'."
    )


def test_a_file_of_two_patients_is_refused_with_both_rows(tmp_path: Path) -> None:
    rows = [f"P1,{tmp_path}/images/P1/a.png", "P1,images/P3/a.png", "P3,images/P3/b.JPG"]
    assert only_problem(listed(tmp_path, rows)) == (
        "images.csv, row 6: path 'images/P3/a.png' is already an image of patient 'P1' in row 3."
    )


def test_a_hidden_file_is_not_said_to_lack_an_extension(tmp_path: Path) -> None:
    path = listed(tmp_path, ["P1,images/P1/a.png", "P1,images/P1/._a.png"])
    assert only_problem(path) == (
        "images.csv, row 3: path 'images/P1/._a.png' is a hidden file; remove the row."
    )


@pytest.mark.parametrize(
    "path",
    ["x" * 300 + ".png", "/".join(["x" * 200] * 30) + ".png", "\x1b[31m.png", "loop/a.png", "/dev/zero.png"],
)
def test_paths_that_cannot_be_files_are_a_sentence(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    toml = of_table(tmp_path, f"P1,{path}\n")
    assert any("is not a file" in problem and problem.isprintable() for problem in problems(toml))


def test_an_image_table_may_name_images_anywhere(tmp_path: Path) -> None:
    """Nothing is written there."""
    (tmp_path / "here").mkdir()
    images = [touch(tmp_path / "there" / f"{patient}.png") for patient in ("P1", "P2", "P3")]
    rows = [f"P1,{images[0]}", "P2,../there/P2.png", f"P3,{images[2]}"]
    cohort = read_cohort(of_table(tmp_path / "here", "\n".join(rows) + "\n"))
    assert [paths[0].resolve() for paths in cohort.images.values()] == images


@needs_root
def test_an_image_in_a_colleagues_folder_names_whom_to_ask() -> None:
    with tempfile.TemporaryDirectory() as name:  # everyone may search its parents, unlike those of tmp_path
        root = Path(name)
        root.chmod(0o755)
        touch(root / "theirs" / "a.png")
        toml = of_table(root, "P1,theirs/a.png\n")
        (root / "theirs").chmod(0o000)
        text = as_nobody(lambda: read_cohort(toml))
    assert "UsageError" in text and f"the folder {root / 'theirs'} belongs to" in text
