"""Resample images to one scale: the same number of micrometres per pixel in all of them."""

import numpy as np
from PIL import Image

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.opening import MAX_PIXELS
from mil_toolkit.features.stain import Pixels


def resampled_sides(sides: tuple[int, int], microns_per_pixel: float, scale: float) -> tuple[int, int]:
    """Return width and height of an image after resampling, in pixels.

    Raises DataError if a side would be rounded to no pixel, or the image larger than any that is decoded.

    >>> resampled_sides((40, 30), microns_per_pixel=0.2, scale=0.4)
    (20, 15)
    """
    exact = [side * microns_per_pixel / scale for side in sides]
    if min(exact) <= 0.5 or not exact[0] * exact[1] <= MAX_PIXELS:
        size = "less than a pixel" if min(exact) <= 0.5 else f"more than {MAX_PIXELS:,} pixels"
        raise DataError(
            f"{sides[0]} x {sides[1]} pixels of {microns_per_pixel:g} micrometres are {size} at {scale:g}"
            " micrometres per pixel."
        )
    return round(exact[0]), round(exact[1])


def to_scale(image: Image.Image, microns_per_pixel: float | None, scale: float | None) -> Image.Image:
    """Resample an image from its micrometres per pixel to `scale`; None leaves it as it is.

    Raises DataError as `resampled_sides` does.

    >>> to_scale(Image.new("RGB", (40, 30)), 0.2, 0.4).size
    (20, 15)
    """
    if scale is None or microns_per_pixel is None:
        return image
    sides = resampled_sides(image.size, microns_per_pixel, scale)
    return image if sides == image.size else image.resize(sides, Image.Resampling.BILINEAR)


def pixels_to_scale(pixels: Pixels, microns_per_pixel: float | None, scale: float | None) -> Pixels:
    """Resample an image (H, W, 3) as `to_scale` does."""
    image = Image.fromarray(pixels)
    resampled = to_scale(image, microns_per_pixel, scale)
    return pixels if resampled is image else np.asarray(resampled)
