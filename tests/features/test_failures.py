"""Images that cannot be embedded: what is reported, what is published, what is left out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.tiny_images import (
    CONFIG,
    bags_of,
    break_some,
    draw,
    expected,
    run,
    same,
)

from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract

pytestmark = pytest.mark.usefixtures("built_once")


def test_all_bad_images_are_named_and_the_rest_is_published(toml: Path) -> None:
    """In one run; only the patients without a bad image are in the cache."""
    said = break_some(toml)
    with pytest.raises(DataError) as caught:
        run(toml)
    assert len(caught.value.problems) == 4
    for part, line in zip(said, sorted(caught.value.problems[:3]), strict=True):
        assert part in line
    assert "--on-error skip" in caught.value.problems[3]
    (folder,) = (toml.parents[1] / "cache/c").iterdir()
    assert FeatureCache.open(folder).patient_ids == ("P4",)


def test_bad_images_can_be_left_out(toml: Path) -> None:
    """A patient without other images is reported, not stored empty; a second run adds nothing."""
    break_some(toml)
    found = run(toml, on_error="skip")
    assert len(found.skipped) == 3 and found.left_out == ("P2",)
    bags = bags_of(found)
    assert {patient: [*bag] for patient, bag in bags.items()} == {
        "P1": ["0.png", "2.png"],
        "P3": ["0.png", "1.png", "2.png", "3.png"],
        "P4": ["0.png", "1.png"],
    }
    files = sorted(found.folder.iterdir())
    again = run(toml, on_error="skip")
    assert again.skipped == found.skipped and again.extracted == 0
    assert sorted(found.folder.iterdir()) == files


def test_repaired_images_join_their_bag(toml: Path) -> None:
    """After a run that left them out."""
    break_some(toml)
    run(toml, on_error="skip")
    for name, seed in (("P1/1.png", 101), ("P2/0.png", 200), ("P3/4.png", 304)):
        draw(toml.parent / "images" / name, seed)
    second = run(toml)
    assert second.extracted == 3 and not second.skipped and same(bags_of(second), expected(toml))


def test_the_old_embedding_of_a_broken_image_is_dropped(toml: Path) -> None:
    """A patient of whom only old embeddings are left is an error."""
    run(toml)
    break_some(toml)
    with pytest.raises(DataError, match="patient P2: no image is readable, and the cache holds older ones"):
        run(toml, on_error="skip")
    draw(toml.parent / "images/P2/0.png", 200)
    assert [*bags_of(run(toml, on_error="skip"))["P1"]] == ["0.png", "2.png"]


def test_an_image_that_vanishes_is_named(toml: Path) -> None:
    """Between the reading of the cohort and of the image."""
    cohort = read_cohort(toml)
    (toml.parent / "images/P3/1.png").unlink()
    with pytest.raises(DataError, match=r"P3/1\.png: No such file"):
        extract(cohort, CONFIG, toml.parents[1] / "cache", precision="float32", device="cpu")


def test_an_image_smaller_than_the_crop_is_named(toml: Path) -> None:
    """With its size."""
    draw(toml.parent / "images/P1/0.png", 1)
    Image.new("RGB", (20, 30)).save(toml.parent / "images/P1/0.png")
    with pytest.raises(DataError, match=r"P1/0\.png: 20 x 30 pixels are fewer than a crop of 36"):
        extract(read_cohort(toml), replace(CONFIG, crop=36), toml.parents[1] / "cache", device="cpu")


def test_embeddings_beyond_float16_are_not_stored(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite value would make every product with it infinite or NaN."""
    monkeypatch.setattr(Embedder, "forward", lambda _, pixels: torch.full((len(pixels), 512), torch.inf))
    with pytest.raises(DataError) as caught:
        run(toml)
    cause, advice = caught.value.problems
    assert cause.startswith("11 of 11 images cannot be used: its embedding exceeds float16.")
    assert "P1/0.png, " in cause and cause.endswith("P3/0.png and 6 more.")
    assert advice == "11 images cannot be used. Repair or remove these images."
