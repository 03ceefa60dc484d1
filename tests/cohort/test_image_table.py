"""Images listed in an image table."""

from pathlib import Path

from support.cohort_files import TOML, only_problem, problems, write

from mil_toolkit.cohort.cohort import read_cohort

IMAGE_TOML = TOML.replace('images = ["images"]', 'image_table = "images.csv"')


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
        "images.csv, row 3: path 'images/../images/P1/a.png' already appears in row 2.",
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
