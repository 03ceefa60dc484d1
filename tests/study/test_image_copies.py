"""Similar embeddings are called a leak only if the image files are copies."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.audited import IMAGES, PATIENTS, WIDTH, embeddings, only, sound
from support.drawn_smears import draw_smear, random_nucleus
from support.planted import make_cache

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.audit import audit
from mil_toolkit.study.image_copies import CopyCheck

ONE, OTHER = ("P007", "9.png"), ("P020", "4.png")


def smear(seed: int) -> Image.Image:
    """Draw a smear whose nucleus is in the middle."""
    generator = np.random.default_rng(seed)
    return Image.fromarray(draw_smear(generator, [random_nucleus(generator, reach=0.03)]))


def saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def setting(
    folder: Path, one: bytes, other: bytes, preprocess: str = "saturation-mask"
) -> tuple[Cohort, FeatureCache]:
    """Return a cohort with two images of similar embeddings under different patients, and its cache."""
    bags = embeddings()
    bags[20][4] = bags[7][9] + np.random.default_rng(1).normal(0, 0.1, WIDTH)
    cache = make_cache(folder / "cache", sound(), bags, {ONE: one, OTHER: other})
    cache.spec["preprocess"] = preprocess
    names = tuple(f"{number}.png" for number in range(IMAGES))
    patients = [f"P{number:03}" for number in range(PATIENTS)]
    images = {patient: tuple(folder / patient / name for name in names) for patient in patients}
    for (patient, name), content in ((ONE, one), (OTHER, other)):
        (folder / patient).mkdir()
        (folder / patient / name).write_bytes(content)
    return replace(sound(), images=images, image_names=dict.fromkeys(patients, names)), cache


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "saved again": lambda image: saved(image, "JPEG", quality=50),
    "another format": lambda image: saved(image, "WEBP", quality=90),
    "brighter": lambda image: saved(image.point(lambda value: min(255, value * 1.05))),
    "smaller": lambda image: saved(image.resize((100, 100))),
    "cropped": lambda image: saved(image.crop((2, 2, image.width - 2, image.height - 2))),
    "turned": lambda image: saved(image.rotate(90)),
    "mirrored": lambda image: saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


@pytest.mark.parametrize("preprocess", ["none", "saturation-mask", "cell-mask"])
@pytest.mark.parametrize("change", COPIES)
def test_copies_are_a_leak_whatever_the_network_saw(change: str, preprocess: str, tmp_path: Path) -> None:
    image = smear(3)
    cohort, cache = setting(tmp_path, saved(image), COPIES[change](image), preprocess)
    (found,) = audit(cohort, cache)
    assert (found.kind, found.level, found.count) == ("near-identical images", "leak", 1)
    assert found.where[0].startswith("P007/9.png ~ P020/4.png (0.9")


@pytest.mark.parametrize("preprocess", ["none", "saturation-mask", "cell-mask"])
def test_different_images_with_similar_embeddings_are_only_a_note(preprocess: str, tmp_path: Path) -> None:
    """Such as masked images of small nuclei."""
    (found,) = audit(*setting(tmp_path, saved(smear(3)), saved(smear(4)), preprocess))
    assert (found.kind, found.level, found.count) == ("similar embeddings", "note", 1)
    assert "the image files differ" in found.text and found.where[0].startswith("P007/9.png ~ P020/4.png")


@pytest.mark.parametrize(
    ("preprocess", "level"), [("none", "leak"), ("saturation-mask", "note"), ("cell-crop", "note")]
)
def test_without_the_files_only_embeddings_of_whole_images_show_a_leak(
    preprocess: str, level: str, tmp_path: Path
) -> None:
    """Whether the files are missing, have changed, or the cohort's images cannot be listed."""
    image = smear(3)
    cohort, cache = setting(tmp_path, saved(image), saved(image, "JPEG"), preprocess)
    (tmp_path / OTHER[0] / OTHER[1]).write_bytes(saved(smear(5)))
    assert [finding.level for finding in audit(cohort, cache)] == [level]
    (tmp_path / OTHER[0] / OTHER[1]).unlink()
    assert [finding.level for finding in audit(cohort, cache)] == [level]
    found = only(
        audit(replace(cohort, images={}), cache),
        "near-identical images" if level == "leak" else "similar embeddings",
    )
    assert found.level == level


def test_empty_images_are_copies_only_if_they_are_equal(tmp_path: Path) -> None:
    blank, darker = Image.new("RGB", (30, 30), "white"), Image.new("RGB", (30, 30), "grey")
    for number, (image, expected) in enumerate([(blank, True), (darker, False), (smear(3), False)]):
        (tmp_path / str(number)).mkdir()
        cohort, cache = setting(tmp_path / str(number), saved(blank), saved(image, "BMP"))
        assert CopyCheck(cohort, cache).is_copy(ONE, OTHER) is expected
