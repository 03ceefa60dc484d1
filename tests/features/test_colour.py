"""Colour profiles as part of a cache's spec; test_zoo.py has their pixels."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.tiny_images import BAGS, CONFIG, LONG_AGO, backbone, bags_of, run, write_cohort
from support.zoo import ADOBE_COLUMNS, gama, iccp, rgb_profile, write_png, write_tiff

from mil_toolkit.backbones import backbones
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.features.colour import needs_conversion
from mil_toolkit.features.decoding import decode, decode_noting
from mil_toolkit.features.extract import Extraction, extract
from mil_toolkit.features.sharding import Share

PROFILE = rgb_profile(563 / 256, ADOBE_COLUMNS)
RGB = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
CONVERTED = write_png(RGB, [iccp(PROFILE)])


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build_backbone", backbone)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """The cohort.toml of a tiny cohort."""
    return write_cohort(tmp_path / "cohort", BAGS)


def put(toml: Path, content: bytes) -> None:
    """Replace an image."""
    path = toml.parent / "images/P3/1.png"
    path.write_bytes(content)
    os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))


def spec(done: Extraction) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((done.folder / "spec.json").read_text())
    return loaded


def test_a_cohort_without_profiles_keeps_its_cache(toml: Path) -> None:
    """Its spec is the one from before profiles were applied."""
    first = run(toml, colour=None)
    assert "colour" not in spec(first)
    again = run(toml)
    assert again.folder == first.folder and again.extracted == 0


def test_profiles_get_a_cache_of_their_own(toml: Path) -> None:
    """In which images without one have the same embeddings to the bit."""
    put(toml, CONVERTED)
    without, applied = run(toml, colour=None), run(toml)
    assert spec(applied) == {**spec(without), "colour": "srgb"}
    assert applied.folder != without.folder
    before, after = bags_of(without), bags_of(applied)
    for patient, bag in before.items():
        for name, embedding in bag.items():
            same = np.array_equal(embedding, after[patient][name])
            assert same == ((patient, name) != ("P3", "1.png"))


def test_every_share_chooses_the_same_cache(toml: Path) -> None:
    """Also a share without the image that has a profile."""
    put(toml, CONVERTED)
    cohort = read_cohort(toml)
    shares = [Share(index, 3) for index in range(3)]
    done = [extract(cohort, CONFIG, toml.parent, share=share, device="cpu") for share in shares]
    folders = {extraction.folder for extraction in done}
    assert len(folders) == 1


def test_a_spec_without_the_key_ignores_profiles_and_says_so() -> None:
    """As a bundle from before expects."""
    decoded = decode_noting(CONVERTED)
    assert np.array_equal(decoded.pixels, RGB)
    assert decoded.notes == (
        "its colour profile is not applied, because the features were made without profiles.",
    )


@pytest.mark.parametrize("content", [write_png(RGB, [iccp(PROFILE[:150])]), write_png(RGB, [gama(0.45455)])])
def test_a_cohort_whose_profiles_change_nothing_keeps_its_cache(toml: Path, content: bytes) -> None:
    """Broken ones and those of sRGB."""
    put(toml, content)
    assert "colour" not in spec(run(toml))


def test_the_profile_of_srgb_changes_no_bit() -> None:
    """Phones and Photoshop embed it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (write_png(RGB, [iccp(profile)]), write_tiff(RGB, iccprofile=profile)):
        assert np.array_equal(decode(content, "srgb"), RGB)


@pytest.mark.parametrize("size", [30, 700])
def test_headers_tell_which_images_need_a_conversion(tmp_path: Path, size: int) -> None:
    """In every format, for small and large files, and in the last segments of a JPEG too."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        for profile in (None, PROFILE):
            buffer = io.BytesIO()
            image.save(buffer, kind, quality=95, lossless=True, icc_profile=profile)
            (tmp_path / "x").write_bytes(buffer.getvalue())
            assert needs_conversion(tmp_path / "x") == (profile is not None)
    (tmp_path / "x").write_bytes(b"")
    assert not needs_conversion(tmp_path / "x") and not needs_conversion(tmp_path / "nothing")
