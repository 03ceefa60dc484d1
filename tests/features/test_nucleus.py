"""The search for the nucleus nearest the centre, on drawn smears whose nuclei are known."""

import numpy as np
import pytest
from support.drawn_smears import RED_CELLS, Ellipse, Light, draw_smear, random_nucleus

from mil_toolkit.features.nucleus import find_nucleus

LIGHTS = {
    "usual": Light(),
    "dark": Light(exposure=0.55),
    "uneven": Light(falloff=0.5),
    "noisy": Light(noise=10),
}


def distance(found: tuple[float, float, np.ndarray], truth: Ellipse) -> float:
    """Return the distance in pixels of a found nucleus from the true one."""
    return float(np.hypot(found[0] - truth.row, found[1] - truth.column))


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("red", RED_CELLS)
def test_a_nucleus_is_found_within_two_pixels_and_covered_by_its_mask(red: str, light: str) -> None:
    """In every image, whatever the colour of the red cells and the light; 99 of 100 are required."""
    generator = np.random.default_rng(1)
    near, overlaps = [], []
    for _ in range(10):
        truth = random_nucleus(generator)
        nucleus, sight = find_nucleus(draw_smear(generator, [truth], red=red, light=LIGHTS[light]))
        assert nucleus is not None and sight in ("one", "several")
        near.append(distance(nucleus, truth) <= 2)
        inside = truth.mask((160, 160))
        overlaps.append((nucleus.mask & inside).sum() / (nucleus.mask | inside).sum())
        assert nucleus.radius == pytest.approx(np.sqrt(truth.long * truth.short), rel=0.15)
    assert all(near) and min(overlaps) > 0.8


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("red", RED_CELLS)
def test_no_nucleus_is_found_among_red_cells_and_platelets(red: str, light: str) -> None:
    generator = np.random.default_rng(2)
    for _ in range(5):
        image = draw_smear(generator, [], red=red, light=LIGHTS[light])
        assert find_nucleus(image) == (None, "none")


@pytest.mark.parametrize("shape", [(48, 48), (96, 96), (224, 224), (200, 320), (900, 700), (1600, 1600)])
def test_the_nucleus_is_found_in_images_of_any_size_and_shape(shape: tuple[int, int]) -> None:
    """Within two pixels, or half a per cent of the side of a large image."""
    generator = np.random.default_rng(3)
    for _ in range(3):
        truth = random_nucleus(generator, shape)
        nucleus, sight = find_nucleus(draw_smear(generator, [truth], shape))
        assert nucleus is not None and sight != "none" and nucleus.mask.shape == shape
        assert distance(nucleus, truth) <= max(2, 0.005 * min(shape))


def test_of_several_nuclei_the_nearest_to_the_centre_is_found() -> None:
    generator = np.random.default_rng(4)
    nuclei = [Ellipse(35, 40, 18, 15), Ellipse(84, 92, 15, 13), Ellipse(122, 40, 20, 18)]
    for order in ([0, 1, 2], [2, 1, 0]):
        nucleus, sight = find_nucleus(draw_smear(generator, [nuclei[place] for place in order]))
        assert sight == "several" and nucleus is not None and distance(nucleus, nuclei[1]) <= 2


@pytest.mark.parametrize("angle", [0.0, 0.8, 1.5])
def test_nuclei_that_touch_are_divided(angle: float) -> None:
    """The window must not lie between them."""
    generator = np.random.default_rng(5)
    near = Ellipse(82, 78, 19, 17)
    apart = 35 * np.array([np.sin(angle), np.cos(angle)])
    other = Ellipse(near.row + apart[0], near.column + apart[1], 18, 18)
    nucleus, sight = find_nucleus(draw_smear(generator, [near, other]))
    assert sight == "several" and nucleus is not None and distance(nucleus, near) <= 2


def test_an_indented_nucleus_is_not_divided() -> None:
    """Such as that of a monocyte, which has the shape of a kidney."""
    generator = np.random.default_rng(6)
    image = draw_smear(generator, [Ellipse(80, 80, 24, 18)])
    notch = Ellipse(62, 80, 8, 7).mask((160, 160))
    image[notch] = (176, 172, 212)
    nucleus, sight = find_nucleus(image)
    assert sight == "one" and nucleus is not None and nucleus.mask[80, 60] and nucleus.mask[80, 100]


@pytest.mark.parametrize("place", [(3, 80), (157, 80), (80, 3), (80, 157), (2, 2)])
def test_a_nucleus_that_the_border_cuts_is_counted_as_cut(place: tuple[int, int]) -> None:
    generator = np.random.default_rng(7)
    truth = Ellipse(*place, 20, 18)
    nucleus, sight = find_nucleus(draw_smear(generator, [truth]))
    assert sight == "cut" and nucleus is not None
    rows, columns = np.nonzero(truth.mask((160, 160)))
    assert abs(nucleus.row - rows.mean() - 0.5) <= 2 and abs(nucleus.column - columns.mean() - 0.5) <= 2


def test_a_cut_nucleus_away_from_the_centre_does_not_count_as_cut() -> None:
    """Only the nucleus in the window matters; the image shows several."""
    generator = np.random.default_rng(8)
    nucleus, sight = find_nucleus(draw_smear(generator, [Ellipse(80, 80, 18, 17), Ellipse(2, 80, 20, 18)]))
    assert sight == "several" and nucleus is not None and abs(nucleus.row - 80) <= 2


def test_images_without_colour_or_content_have_no_nucleus() -> None:
    """Black, white, grey, noise without colour, a smear in grey, a single colour, a single pixel."""
    generator = np.random.default_rng(9)
    smear = draw_smear(generator, [Ellipse(80, 80, 20, 18)])
    grey = np.repeat(smear.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    noise = np.repeat(generator.integers(0, 256, (160, 160, 1), dtype=np.uint8), 3, axis=2)
    plain = [np.full((160, 160, 3), value, np.uint8) for value in (0, 255, 77, (88, 48, 130), (0, 0, 9))]
    pixel = [np.full((1, 1, 3), value, np.uint8) for value in (0, 255, (88, 48, 130))]
    thin = [np.zeros((1, 700, 3), np.uint8), np.full((700, 2, 3), 200, np.uint8)]
    for image in (grey, noise, *plain, *pixel, *thin):
        assert find_nucleus(image) == (None, "none")


def test_black_margins_are_not_taken_for_a_nucleus() -> None:
    """Such as those of a round field of view, where the noise of the camera has any hue."""
    generator = np.random.default_rng(10)
    truth = Ellipse(80, 84, 18, 16)
    image = draw_smear(generator, [truth])
    margin = ~Ellipse(80, 80, 79, 79).mask((160, 160))
    image[margin] = generator.integers(0, 12, (int(margin.sum()), 3))
    nucleus, sight = find_nucleus(image)
    assert sight == "one" and nucleus is not None and distance(nucleus, truth) <= 2


def test_the_same_pixels_give_the_same_nucleus_wherever_they_lie_in_memory() -> None:
    """Views of larger arrays and read-only arrays, as decoders return them, to the bit."""
    generator = np.random.default_rng(11)
    image = draw_smear(generator, [random_nucleus(generator)])
    frozen = np.asfortranarray(image)
    frozen.flags.writeable = False
    one, other = find_nucleus(image).nucleus, find_nucleus(frozen).nucleus
    assert one is not None and other is not None
    assert one[:2] == other[:2] and np.array_equal(one.mask, other.mask)
