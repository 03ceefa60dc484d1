"""Prepare decoded images for a backbone: crop, resize, preprocess.

scipy is only imported to search for nuclei, so that processes that decode images start quickly.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mil_toolkit.config.extraction import SQUASHED, Sampling
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.opening import MAX_PIXELS
from mil_toolkit.features.sights import RIM, Sight
from mil_toolkit.features.stain import Pixels, otsu_threshold
from mil_toolkit.features.stain_normalisation import normalise_stain

if TYPE_CHECKING:
    from mil_toolkit.features.nucleus import Mask, Nucleus, Search

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


def centre_window(width: int, height: int, size: int) -> Window:
    """Return the central window of an image of this size; raises DataError if the image is smaller."""
    if min(height, width) < size:
        raise DataError(f"{width} x {height} pixels are fewer than a crop of {size}.")
    return Window((height - size) // 2, (width - size) // 2, size)


def centre_crop(pixels: Pixels, size: int) -> Pixels:
    """Return the central `size` x `size` pixels; raises DataError if the image is smaller.

    >>> centre_crop(np.zeros((30, 40, 3), dtype=np.uint8), 20).shape
    (20, 20, 3)
    """
    height, width, _ = pixels.shape
    return centre_window(width, height, size).of(pixels)


def nucleus_window(pixels: Pixels, size: int, nucleus: "Nucleus | None") -> Window:
    """Return the window around a nucleus, or the central one without a nucleus.

    Where the window would reach beyond the image, it is moved inside; nothing is padded. Raises DataError if
    the image is smaller than the window.
    """
    height, width, _ = pixels.shape
    centre = centre_window(width, height, size)
    if nucleus is None:
        return centre
    top, left = (math.ceil(middle - (size + 1) / 2) for middle in (nucleus.row, nucleus.column))
    return Window(min(max(top, 0), height - size), min(max(left, 0), width - size), size)


def resize(pixels: Pixels, size: int) -> Pixels:
    """Resize to `size` x `size`, ignoring the aspect ratio; bilinear, averaging pixels when shrinking."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.array(_resized(Image.fromarray(pixels), size, size, "bilinear"))


def _resized(image: Image.Image, height: int, width: int, interpolation: str) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling[interpolation.upper()])


def sampled_sides(sides: tuple[int, int], size: int, sampling: Sampling) -> tuple[int, int]:
    """Return width and height to which `sample` resizes an image, before it keeps the central square.

    Raises DataError if that is larger than any image that is decoded.
    """
    scaled, shorter = math.floor(size / sampling.crop_pct), min(sides)
    if sampling.mode == "squash":
        return scaled, scaled
    width, height = (scaled * side // shorter for side in sides)
    if width * height > MAX_PIXELS:
        raise DataError(f"{sides[0]} x {sides[1]} pixels are too long for a square of {size}.")
    return width, height


def sample(image: Image.Image, size: int, sampling: Sampling) -> Pixels:
    """Resize to `size` x `size` as an encoder expects it, with the rounding of timm's transforms.

    Raises DataError as `sampled_sides` does.
    """
    width, height = sampled_sides(image.size, size, sampling)
    # Resized before it becomes an array, because a large image takes longer to become one.
    resized = _resized(image, height, width, sampling.interpolation)
    top, left = (round((side - size) / 2) for side in (height, width))
    return Window(top, left, size).of(np.asarray(resized))


def _sampled(pixels: Pixels, size: int, sampling: Sampling) -> Pixels:
    return sample(Image.fromarray(pixels), size, sampling)


def _sampled_window(image: Image.Image, size: int, sampling: Sampling) -> Window | None:
    """Return the part of an image that `sample` shows; None if it shows the whole one or no square."""
    if sampling.mode == "squash":
        return None
    shown = round(min(image.size) * size / math.floor(size / sampling.crop_pct))
    return None if image.size == (shown, shown) else centre_window(*image.size, shown)


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


def _image(image: Image.Image, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    if not crop:
        return Prepared(sample(image, image_size, sampling), _sampled_window(image, image_size, sampling))
    window = centre_window(*image.size, crop)
    shown = image.crop((window.left, window.top, window.right, window.bottom))
    return Prepared(sample(shown, image_size, sampling), window)


def _masked_image(image: Image.Image, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    prepared = _image(image, image_size, crop, sampling)
    return prepared._replace(pixels=saturation_mask(prepared.pixels))


def _normalised_image(image: Image.Image, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    prepared = _image(image, image_size, crop, sampling)
    return prepared._replace(pixels=normalise_stain(prepared.pixels))


def _search(pixels: Pixels) -> "Search":
    from mil_toolkit.features.nucleus import find_nucleus  # imports scipy

    return find_nucleus(pixels)


def _cell(image: Image.Image, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    pixels = np.asarray(image)
    nucleus, sight = _search(pixels)
    window = nucleus_window(pixels, crop, nucleus)
    return Prepared(_sampled(window.of(pixels), image_size, sampling), window, sight)


def _masked_cell(image: Image.Image, image_size: int, crop: int, sampling: Sampling) -> Prepared:
    pixels = np.asarray(image)
    nucleus, sight = _search(pixels)
    window = nucleus_window(pixels, crop, nucleus)
    shown = window.of(pixels)
    if nucleus is not None and window.of(nucleus.mask).any():
        shown = shown * _near(nucleus.mask, RIM * nucleus.radius, window)[:, :, None]
    return Prepared(_sampled(shown, image_size, sampling), window, sight)


def _near(mask: "Mask", distance: float, window: Window) -> "Mask":
    """Return which pixels in the window are at most `distance` pixels away from the mask (H, W).

    The part of the mask outside the window counts as well, as far as it is near enough.
    """
    from scipy import ndimage

    margin = math.ceil(distance)
    top, left = max(window.top - margin, 0), max(window.left - margin, 0)
    part = mask[top : window.bottom + margin, left : window.right + margin]
    near: Mask = ndimage.distance_transform_edt(~part) <= distance
    return Window(window.top - top, window.left - left, window.size).of(near)


PREPROCESSES: dict[str, Callable[[Image.Image, int, int, Sampling], Prepared]] = {
    "none": _image,
    "saturation-mask": _masked_image,
    "reinhard": _normalised_image,
    "cell-crop": _cell,
    "cell-mask": _masked_cell,
}


def prepare_noting(
    image: Image.Image | Pixels, image_size: int, crop: int, preprocess: str, sampling: Sampling | None = None
) -> Prepared:
    """Crop, resize and preprocess an image; also return its window and what was found in it.

    image: RGB; as pixels it is (H, W, 3)
    crop: side of the window, central or around a nucleus if `preprocess` searches one; 0 shows what
        `sampling` keeps of the whole image
    preprocess: a name in PREPROCESSES
    sampling: None resizes the whole image or window bilinearly

    Raises DataError if the image is smaller than the crop, or too long to be resized to a square.
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    return PREPROCESSES[preprocess](image, image_size, crop, sampling or SQUASHED)


def prepare(
    image: Image.Image | Pixels, image_size: int, crop: int, preprocess: str, sampling: Sampling | None = None
) -> Pixels:
    """Return only the pixels of `prepare_noting`: (image_size, image_size, 3) uint8.

    >>> prepare(np.zeros((30, 40, 3), dtype=np.uint8), image_size=8, crop=20, preprocess="none").shape
    (8, 8, 3)
    """
    return prepare_noting(image, image_size, crop, preprocess, sampling).pixels
