"""Pixels are kept up to a limit, and only as long as their file does not change."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.tiny_images import draw

from mil_toolkit.features.kept_pixels import KeptPixels

PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


@pytest.fixture(name="image")
def _image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written long ago, by a clock that is ahead."""
    draw(tmp_path / "a.png", 1)
    now = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: now)
    return tmp_path / "a.png"


def test_an_unchanged_file_keeps_its_pixels(image: Path) -> None:
    kept = KeptPixels(100)
    assert kept.get(image) is None
    kept.keep(image, image.stat(), PIXELS)
    assert kept.get(image) is PIXELS


def test_of_a_part_of_a_larger_image_only_the_part_is_kept(image: Path) -> None:
    kept, part = KeptPixels(100), np.zeros((2, 900, 3), dtype=np.uint8)[:, 1:3]
    kept.keep(image, image.stat(), part)
    pixels = kept.get(image)
    assert pixels is not None and np.array_equal(pixels, part) and pixels.base is None


def rewrite(image: Path) -> None:
    image.write_bytes(image.read_bytes())


def replace(image: Path) -> None:
    draw(image.with_name("b.png"), 2)
    image.with_name("b.png").rename(image)


@pytest.mark.parametrize("change", [rewrite, replace, Path.unlink], ids=["rewrite", "replace", "unlink"])
def test_a_file_that_may_have_changed_has_to_be_read_again(
    image: Path, change: Callable[[Path], object]
) -> None:
    """Even if it has the same size and mtime as before."""
    kept, status = KeptPixels(100), image.stat()
    kept.keep(image, status, PIXELS)
    change(image)
    if image.exists():
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.get(image) is None


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path) -> None:
    """Its next change might not change its state."""
    (tmp_path / "a.png").write_bytes(b"1")
    kept = KeptPixels(100)
    kept.keep(tmp_path / "a.png", (tmp_path / "a.png").stat(), PIXELS)
    assert kept.get(tmp_path / "a.png") is None


def test_no_more_than_the_limit_is_kept(image: Path) -> None:
    """What does not fit is read again, and the rest stays."""
    kept = KeptPixels(2 * PIXELS.nbytes + 1)
    others = [image.with_name(f"{number}.png") for number in range(3)]
    for path in others:
        draw(path, 3)
        kept.keep(path, path.stat(), PIXELS)
        kept.keep(path, path.stat(), PIXELS)
    assert [kept.get(path) is PIXELS for path in others] == [True, True, False]
