"""Prepare decoded images for a backbone: crop, resize, preprocess."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mil_toolkit.config import SQUASHED, Sampling
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.nucleus import Mask, Nucleus, find_nucleus
from mil_toolkit.features.sights import RIM, Sight
from mil_toolkit.features.stain import Pixels, otsu_threshold

Scalar = TypeVar("Scalar", bound=np.generic)


class Window(NamedTuple):
    """A square part of an image, in pixels."""

    top: int
    left: int
    size: int

    @property
    def bottom(self) -> int:
        """The row below the last one."""
        return self.top + self.size

    @property
    def right(self) -> int:
        """The column right of the last one."""
        return self.left + self.size

    def of(self, pixels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the part of an image (H, W, ...) in the window."""
        return pixels[self.top : self.bottom, self.left : self.right]


def centre_window(pixels: Pixels, size: int) -> Window:
    """Return the central window; raises DataError if the image is smaller."""
    height, width, _ = pixels.shape
    if min(height, width) < size:
        raise DataError(f"{width} x {height} pixels are fewer than a crop of {size}.")
    return Window((height - size) // 2, (width - size) // 2, size)


def centre_crop(pixels: Pixels, size: int) -> Pixels:
    """Return the central `size` x `size` pixels; raises DataError if the image is smaller.

    >>> centre_crop(np.zeros((30, 40, 3), dtype=np.uint8), 20).shape
    (20, 20, 3)
    """
    return centre_window(pixels, size).of(pixels)


def nucleus_window(pixels: Pixels, size: int, nucleus: Nucleus | None) -> Window:
    """Return the window around a nucleus, or the central one without a nucleus.

    Where the window would reach beyond the image, it is moved inside; nothing is padded. Raises DataError if
    the image is smaller than the window.
    """
    centre = centre_window(pixels, size)
    if nucleus is None:
        return centre
    height, width, _ = pixels.shape
    top, left = (math.ceil(middle - (size + 1) / 2) for middle in (nucleus.row, nucleus.column))
    return Window(min(max(top, 0), height - size), min(max(left, 0), width - size), size)


def resize(pixels: Pixels, size: int) -> Pixels:
    """Resize to `size` x `size`, ignoring the aspect ratio; bilinear, averaging pixels when shrinking."""
    return _resized(pixels, size, size, "bilinear")


def _resized(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    how = Image.Resampling[interpolation.upper()]
    return np.array(Image.fromarray(pixels).resize((width, height), how))


def sample(pixels: Pixels, size: int, sampling: Sampling) -> Pixels:
    """Resize to `size` x `size` as an encoder expects it, with the rounding of timm's transforms."""
    height, width, _ = pixels.shape
    scaled, shorter = math.floor(size / sampling.crop_pct), min(height, width)
    if sampling.mode == "squash":
        height = width = scaled
    else:
        height, width = (scaled * side // shorter for side in (height, width))
    resized = _resized(pixels, height, width, sampling.interpolation)
    top, left = (round((side - size) / 2) for side in (height, width))
    return resized[top : top + size, left : left + size]


def _sampled_window(pixels: Pixels, size: int, sampling: Sampling) -> Window | None:
    """Return the part of an image that `sample` shows; None if it shows the whole one or no square."""
    if sampling.mode == "squash":
        return None
    shorter = min(pixels.shape[:2])
    shown = round(shorter * size / math.floor(size / sampling.crop_pct))
    return None if pixels.shape[:2] == (shown, shown) else centre_window(pixels, shown)


def saturation_mask(pixels: Pixels, threshold: int | None = None) -> Pixels:
    """Set pixels whose HSV saturation is at most `threshold` (0 to 255) to black; Sampathila et al. 2022.

    Stained nuclei are the saturated part of a smear. By default the threshold is Otsu's, computed for each
    image.
    """
    saturation = np.asarray(Image.fromarray(pixels).convert("HSV"))[:, :, 1]
    kept = saturation > (otsu_threshold(saturation) if threshold is None else threshold)
    return pixels * kept[:, :, None]


class Prepared(NamedTuple):
    """The part of an image that a backbone sees.

    pixels: (image_size, image_size, 3) uint8
    window: the part of the image that `pixels` shows; None for the whole image
    sight: what the search for a nucleus found; None if the preprocessing does not search
    """

    pixels: Pixels
    window: Window | None
    sight: Sight | None = None


def _image(pixels: Pixels, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    if not crop:
        window = _sampled_window(pixels, image_size, sampling)
        return Prepared(sample(pixels, image_size, sampling), window)
    window = centre_window(pixels, crop)
    return Prepared(sample(window.of(pixels), image_size, sampling), window)


def _masked_image(pixels: Pixels, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    image = _image(pixels, image_size, crop, sampling)
    return image._replace(pixels=saturation_mask(image.pixels))


def _cell(pixels: Pixels, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    nucleus, sight = find_nucleus(pixels)
    window = nucleus_window(pixels, crop, nucleus)
    return Prepared(sample(window.of(pixels), image_size, sampling), window, sight)


def _masked_cell(pixels: Pixels, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    nucleus, sight = find_nucleus(pixels)
    window = nucleus_window(pixels, crop, nucleus)
    shown = window.of(pixels)
    if nucleus is not None and window.of(nucleus.mask).any():
        shown = shown * _near(nucleus.mask, RIM * nucleus.radius, window)[:, :, None]
    return Prepared(sample(shown, image_size, sampling), window, sight)


def _near(mask: Mask, distance: float, window: Window) -> Mask:
    """Return which pixels in the window are at most `distance` pixels away from the mask (H, W).

    The part of the mask outside the window counts as well, as far as it is near enough.
    """
    margin = math.ceil(distance)
    top, left = max(window.top - margin, 0), max(window.left - margin, 0)
    part = mask[top : window.bottom + margin, left : window.right + margin]
    near: Mask = ndimage.distance_transform_edt(~part) <= distance
    return Window(window.top - top, window.left - left, window.size).of(near)


PREPROCESSES: dict[str, Callable[[Pixels, int, int, Sampling], Prepared]] = {
    "none": _image,
    "saturation-mask": _masked_image,
    "cell-crop": _cell,
    "cell-mask": _masked_cell,
}


def prepare_noting(
    pixels: Pixels, image_size: int, crop: int, preprocess: str, sampling: Sampling | None = None
) -> Prepared:
    """Crop, resize and preprocess an image (H, W, 3); also return its window and what was found in it.

    crop: side of the window, 0 for the whole image; central, or around a nucleus if `preprocess` searches one
    preprocess: a name in PREPROCESSES
    sampling: None resizes the whole image or window bilinearly

    Raises DataError if the image is smaller than the crop.
    """
    return PREPROCESSES[preprocess](pixels, image_size, crop, sampling or SQUASHED)


def prepare(
    pixels: Pixels, image_size: int, crop: int, preprocess: str, sampling: Sampling | None = None
) -> Pixels:
    """Return only the pixels of `prepare_noting`: (H, W, 3) -> (image_size, image_size, 3) uint8.

    >>> prepare(np.zeros((30, 40, 3), dtype=np.uint8), image_size=8, crop=20, preprocess="none").shape
    (8, 8, 3)
    """
    return prepare_noting(pixels, image_size, crop, preprocess, sampling).pixels
