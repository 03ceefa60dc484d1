"""How strongly each pixel of a smear is stained, and the threshold between stained and unstained pixels."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
DARKEST = 32  # of 255: the brightest channel of a pixel whose hue can be trusted
WHITE = 0.95  # share of an image's pixels that are at most as bright as its background
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
    image's background, so the exposure does not matter. Grey pixels and nearly black ones, such as the
    margins of a scan, are 0.
    """
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    chroma = brightest - np.minimum(np.minimum(red, green), blue)
    counts = np.bincount(brightest.ravel(), minlength=256).cumsum()
    white = max(int((counts >= WHITE * brightest.size).argmax()), 1)
    absorbed = np.maximum(255 - np.arange(256) * 255 // white, 0)  # by red value
    stain = _PER_BRIGHTNESS[brightest] * chroma * absorbed.astype(np.uint32)[red] >> 16
    return stain.astype(np.uint8)
