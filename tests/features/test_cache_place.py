"""Caches that would lie among the images or features that they are made from."""

from pathlib import Path

import numpy as np
import pytest
from support.stored_bags import write_trident
from support.tiny_images import BAGS, CONFIG, write_cohort

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.extract import extract
from mil_toolkit.features.imports import import_features


@pytest.mark.usefixtures("built_once")
@pytest.mark.parametrize("place", ["images", "images/P1", "images/new", "link"])
def test_a_cache_inside_an_image_folder_is_refused(tmp_path: Path, place: str) -> None:
    """Nothing is written, and the cohort stays readable."""
    toml = write_cohort(tmp_path, BAGS)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    cohort = read_cohort(toml)
    root = tmp_path / place
    with pytest.raises(UsageError, match=r"--cache .* would contain one another"):
        extract(cohort, CONFIG, root, device="cpu", dry_run=place == "images/new")
    assert read_cohort(toml).images == cohort.images


@pytest.mark.usefixtures("built_once")
def test_an_image_folder_inside_the_cohorts_caches_is_refused(tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "c", BAGS)
    with pytest.raises(UsageError, match="would contain one another"):
        extract(read_cohort(toml), CONFIG, tmp_path, device="cpu")


def test_a_cache_beside_the_images_is_accepted(tmp_path: Path) -> None:
    toml = write_cohort(tmp_path, BAGS)
    for root in (tmp_path, tmp_path / "images2", tmp_path / "cache"):
        assert extract(read_cohort(toml), CONFIG, root, device="cpu", dry_run=True).extracted == 11


def test_an_import_into_its_own_source_is_refused(tmp_path: Path) -> None:
    """A later import would take shards for feature files."""
    write_trident(tmp_path / "f/P1.h5", np.ones((2, 3), np.float32))
    for root in (tmp_path / "f", tmp_path / "f/cache"):
        with pytest.raises(UsageError, match="would contain one another"):
            import_features(tmp_path / "f", "trident", root, "c")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["P1.h5"]
    assert import_features(tmp_path / "f", "trident", tmp_path, "c").patient_ids == ("P1",)
