"""Prepare decoded images for a backbone: crop, resize, preprocess."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mil_toolkit.core.errors import DataError

Pixels = NDArray[np.uint8]


def centre_crop(pixels: Pixels, size: int) -> Pixels:
    """Return the central `size` x `size` pixels; raises DataError if the image is smaller.

    >>> centre_crop(np.zeros((30, 40, 3), dtype=np.uint8), 20).shape
    (20, 20, 3)
    """
    height, width, _ = pixels.shape
    if min(height, width) < size:
        raise DataError(f"{width} x {height} pixels are fewer than a crop of {size}.")
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def resize(pixels: Pixels, size: int) -> Pixels:
    """Resize to `size` x `size`, ignoring the aspect ratio; bilinear, averaging pixels when shrinking."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


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


def saturation_mask(pixels: Pixels, threshold: int | None = None) -> Pixels:
    """Set pixels whose HSV saturation is at most `threshold` (0 to 255) to black; Sampathila et al. 2022.

    Stained nuclei are the saturated part of a smear. By default the threshold is Otsu's, computed for each
    image.
    """
    saturation = np.asarray(Image.fromarray(pixels).convert("HSV"))[:, :, 1]
    kept = saturation > (otsu_threshold(saturation) if threshold is None else threshold)
    return pixels * kept[:, :, None]


def unchanged(pixels: Pixels) -> Pixels:
    """Return the pixels unchanged."""
    return pixels


PREPROCESSES: dict[str, Callable[[Pixels], Pixels]] = {
    "none": unchanged,
    "saturation-mask": saturation_mask,
}


def prepare(pixels: Pixels, image_size: int, crop: int, preprocess: str) -> Pixels:
    """Crop, resize and preprocess: (H, W, 3) -> (image_size, image_size, 3) uint8.

    crop: side of the centre crop, 0 for none
    preprocess: a name in PREPROCESSES

    >>> prepare(np.zeros((30, 40, 3), dtype=np.uint8), image_size=8, crop=20, preprocess="none").shape
    (8, 8, 3)
    """
    if crop:
        pixels = centre_crop(pixels, crop)
    return PREPROCESSES[preprocess](resize(pixels, image_size))
