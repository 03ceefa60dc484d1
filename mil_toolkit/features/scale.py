"""Resample images to one scale: the same number of micrometres per pixel in all of them."""

import numpy as np
from PIL import Image

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.opening import MAX_PIXELS
from mil_toolkit.features.stain import Pixels


def resampled_sides(sides: tuple[int, int], microns_per_pixel: float, scale: float) -> tuple[int, int]:
    """Return height and width (or width and height) of an image after resampling, in pixels.

    Raises DataError if a side would be less than a pixel, or the image larger than any that is decoded.

    >>> resampled_sides((30, 40), microns_per_pixel=0.2, scale=0.4)
    (15, 20)
    """
    exact = [side * microns_per_pixel / scale for side in sides]
    if min(exact) < 0.5 or not exact[0] * exact[1] <= MAX_PIXELS:
        size = "less than a pixel" if min(exact) < 0.5 else f"more than {MAX_PIXELS:,} pixels"
        raise DataError(
            f"{sides[0]} x {sides[1]} pixels of {microns_per_pixel:g} micrometres are {size} at {scale:g}"
            " micrometres per pixel."
        )
    return round(exact[0]), round(exact[1])


def to_scale(pixels: Pixels, microns_per_pixel: float | None, scale: float | None) -> Pixels:
    """Resample an image (H, W, 3) from its micrometres per pixel to `scale`; None leaves it as it is.

    Raises DataError as `resampled_sides` does.

    >>> to_scale(np.zeros((30, 40, 3), dtype=np.uint8), 0.2, 0.4).shape
    (15, 20, 3)
    """
    if scale is None or microns_per_pixel is None:
        return pixels
    height, width = resampled_sides((pixels.shape[0], pixels.shape[1]), microns_per_pixel, scale)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
