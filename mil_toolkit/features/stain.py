"""How strongly each pixel of a smear is stained, and the threshold between stained and unstained pixels."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
DARKEST = 32  # of 255: the brightest channel of a pixel whose hue can be trusted
WHITE = 0.95  # share of a window's pixels that are at most as bright as its background
_BRIGHTNESS = np.arange(256, dtype=np.uint32)
_PER_BRIGHTNESS = np.where(_BRIGHTNESS < DARKEST, 0, 2**16 // np.maximum(_BRIGHTNESS, 1)).astype(np.uint32)


def otsu_threshold(values: NDArray[np.uint8]) -> int:
    """Return the threshold that maximises the between-class variance; Otsu 1979.

    Values up to and including the threshold are the lower class. Of equally good thresholds, the lowest is
    returned.

    >>> otsu_threshold(np.array([10, 12, 200, 210], dtype=np.uint8))
    12
    """
    counts = np.bincount(values.ravel(), minlength=256)
    below = counts.cumsum()  # number of pixels with at most each value
    sums = (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
    return int(np.nan_to_num(below * above * gap**2, posinf=0).argmax())


def nuclear_stain(pixels: Pixels) -> NDArray[np.uint8]:
    """Return how much each pixel looks like a nucleus, 0 to 255: (H, W, 3) -> (H, W).

    The value is the HSV saturation times the share of red light that is absorbed. Nuclei are saturated and
    absorb red light; red cells may be as saturated, but let red light pass. Light is measured against the
    background nearby, so exposure and uneven light do not matter. Grey pixels and nearly black ones, such as
    the margins of a scan, are 0.
    """
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    chroma = brightest - np.minimum(np.minimum(red, green), blue)
    light = np.maximum(_background(brightest), 1)
    passed = np.minimum(red * np.uint32(255) // light, 255)
    stain = _PER_BRIGHTNESS[brightest] * chroma * (255 - passed) >> 16
    return stain.astype(np.uint8)


def _background(brightness: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the brightness of the background at each pixel, (H, W).

    It is interpolated between nine windows of half the image's height and width, which overlap, so that a
    large nucleus fills none of them.
    """
    height, width = brightness.shape
    tall, wide = -(-height // 2), -(-width // 2)
    tops, lefts = ([0, (whole - part) // 2, whole - part] for whole, part in ((height, tall), (width, wide)))
    levels = [[_level(brightness[top : top + tall, left : left + wide]) for left in lefts] for top in tops]
    coarse = Image.fromarray(np.array(levels, dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))


def _level(brightness: NDArray[np.uint8]) -> int:
    counts = np.bincount(brightness.ravel(), minlength=256).cumsum()
    return int((counts >= WHITE * brightness.size).argmax())
