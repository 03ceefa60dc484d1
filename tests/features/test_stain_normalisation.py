"""Stain normalisation: the target, images of other stains, and images without a stain."""

import numpy as np
import pytest

from mil_toolkit.cohort.smears import ACTIVATED, SMALL, Smear, draw_image, draw_smear
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.stain import Pixels
from mil_toolkit.features.stain_normalisation import (
    LEAST_SHARE,
    TARGET_DEVIATION,
    TARGET_MEAN,
    from_lab,
    normalise_stain,
    to_lab,
)

NEUTRAL = Smear(np.zeros(3), 0.0, 1.0)


def smear(seed: int, size: int = 96) -> Pixels:
    random = np.random.default_rng(seed)
    return np.asarray(draw_image(ACTIVATED, draw_smear(random), random, size).image)


def stained(pixels: Pixels, strength: tuple[float, float, float], light: float) -> Pixels:
    """Return an image whose stain absorbs other shares of red, green and blue, in another light."""
    absorbed = (pixels / 255) ** np.array(strength)
    return np.clip(255 * light * absorbed, 0, 255).astype(np.uint8)


def test_the_target_is_the_mean_of_drawn_smears() -> None:
    random = np.random.default_rng(0)
    colours = [
        to_lab(np.asarray(draw_image(cell, NEUTRAL, random, 224).image))
        for _ in range(6)
        for cell in (SMALL, ACTIVATED)
    ]
    means, deviations = (
        np.mean(values, 0) for values in zip(*((c.mean(0), c.std(0)) for c in colours), strict=True)
    )
    np.testing.assert_allclose(means, TARGET_MEAN, atol=0.03)
    np.testing.assert_allclose(deviations, TARGET_DEVIATION, rtol=0.2)


def test_the_colours_are_those_of_the_paper() -> None:
    red, green, blue = np.array([200, 30, 90]) / 255
    l, m, s = (
        np.log10(0.3811 * red + 0.5783 * green + 0.0402 * blue),
        np.log10(0.1967 * red + 0.7244 * green + 0.0782 * blue),
        np.log10(0.0241 * red + 0.1288 * green + 0.8444 * blue),
    )
    expected = [(l + m + s) / 3**0.5, (l + m - 2 * s) / 6**0.5, (l - m) / 2**0.5]
    np.testing.assert_allclose(to_lab(np.array([[[200, 30, 90]]], np.uint8)), [expected])
    pixels = np.maximum(smear(0), 1)
    assert np.array_equal(from_lab(to_lab(pixels)).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("seed", range(4))
def test_an_image_gets_the_mean_and_the_deviation_of_the_target(seed: int) -> None:
    colours = to_lab(normalise_stain(smear(seed)))
    np.testing.assert_allclose(colours.mean(0), TARGET_MEAN, atol=0.03)  # but for clipping and rounding
    np.testing.assert_allclose(colours.std(0), TARGET_DEVIATION, rtol=0.25)


@pytest.mark.parametrize("strength", [(1.4, 0.8, 1.2), (0.7, 1.1, 1.5), (1.2, 1.5, 0.7)])
def test_images_of_another_stain_become_alike(strength: tuple[float, float, float]) -> None:
    original = smear(1)
    other = stained(original, strength, 0.9)
    before = np.abs(original.astype(int) - other).mean()
    after = np.abs(normalise_stain(original).astype(int) - normalise_stain(other)).mean()
    assert before > 15 and after < before / 3


def flat(*colour: int) -> Pixels:
    return np.full((24, 24, 3), colour, dtype=np.uint8)


GREY = np.repeat(np.arange(240, dtype=np.uint8).reshape(10, 24)[..., None], 3, axis=2)
BACKGROUND = (flat(236, 228, 214) + np.random.default_rng(0).integers(0, 6, (24, 24, 3))).astype(np.uint8)
UNSTAINED = {
    "white": flat(255, 255, 255),
    "black": flat(0, 0, 0),
    "a single colour": flat(120, 40, 160),
    "grey": GREY,
    "black and white": np.where(GREY > 100, 255, 0).astype(np.uint8),
    "background": BACKGROUND,
    "one pixel": flat(120, 40, 160)[:1, :1],
}


@pytest.mark.parametrize("name", UNSTAINED)
def test_images_without_a_stain_are_returned_as_they_are(name: str) -> None:
    with np.errstate(all="raise"):
        assert np.array_equal(normalise_stain(UNSTAINED[name]), UNSTAINED[name])


def test_black_margins_do_not_break_anything() -> None:
    image = smear(2).copy()
    image[:, :30] = 0
    with np.errstate(all="raise"):
        normalised = normalise_stain(image)
    assert normalised.dtype == np.uint8 and normalised.shape == image.shape and normalised.std() > 20


def test_a_faint_colour_is_amplified_by_a_limited_factor() -> None:
    image = smear(3)
    mean = to_lab(image).mean(0)
    faint = from_lab(mean + (to_lab(image) - mean) * np.array([1.0, 0.02, 1.0])).reshape(image.shape)
    alpha = to_lab(normalise_stain(faint)).std(0)[1]
    assert to_lab(faint).std(0)[1] < alpha < 0.5 * TARGET_DEVIATION[1]
    assert LEAST_SHARE == 0.25


def test_prepare_normalises_what_is_shown() -> None:
    image = smear(4)
    for crop in (0, 60):
        shown = prepare(image, 48, crop, "none")
        assert np.array_equal(prepare(image, 48, crop, "reinhard"), normalise_stain(shown))
