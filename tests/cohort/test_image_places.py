"""Outputs among the images of a cohort."""

from pathlib import Path

import pytest
from support.cohort_files import write

from mil_toolkit.cohort.image_places import check_outside_images, image_folders
from mil_toolkit.core.errors import UsageError


def test_the_declared_folders_are_found_without_reading_the_images(tmp_path: Path) -> None:
    assert image_folders(write(tmp_path)) == [tmp_path / "images"]


@pytest.mark.parametrize("place", ["images", "images/P1", "images/new/cache", "link/cache", "x/../images"])
def test_a_folder_among_images_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("images")
    with pytest.raises(UsageError, match=f"--cache: .*{place} is inside an image folder"):
        check_outside_images([tmp_path / "images"], {"--cache": tmp_path / place})


@pytest.mark.parametrize("place", ["images/P1/a.csv", "images/a.PNG", "images/P1/b/a.csv"])
def test_a_file_that_would_belong_to_a_patient_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--output: .*{place} is inside an image folder"):
        check_outside_images([tmp_path / "images"], {}, {"--output": tmp_path / place})


def test_other_places_are_allowed(tmp_path: Path) -> None:
    folders = {"--cache": tmp_path / "cache", "--study": tmp_path / "images2"}
    files = {"--output": tmp_path / "images" / "a.csv", "--attention": tmp_path / "a.png"}
    check_outside_images([tmp_path / "images"], folders, files)
