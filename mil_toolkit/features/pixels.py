"""Decode and preprocess images.

Pillow is the only decoder, because another decoder might give an image other pixels and so another embedding.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mil_toolkit.core.errors import DataError

DECODER = f"pillow {PIL.__version__}"
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 2**26  # 8,192 x 8,192; larger images are refused by their header, before memory is allocated
_TOO_LARGE = f"more than the {MAX_PIXELS:,} that are decoded. Cut it into smaller images."
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_UNSCALED = ("I", "F")
Pixels = NDArray[np.uint8]


def decode(content: bytes) -> Pixels:
    """Decode an image file to RGB, (H, W, 3) uint8, rotated according to its EXIF orientation.

    The format is recognised by the content, not by the file's extension. Transparent pixels are blended with
    white, the background of a smear under bright-field light. 16-bit grey is scaled by 1/257, so that 65,535
    becomes 255.

    Raises DataError with the reason: empty, truncated, not one of FORMATS, several frames, more than
    MAX_PIXELS, 32-bit values without a known range.
    """
    if not content:
        raise DataError("the file is empty.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _refuse(image)
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(_TOO_LARGE) from None
    except PIL.UnidentifiedImageError:
        raise DataError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image.") from None
    except Exception as error:  # Pillow's parsers raise nearly any exception on a corrupt file
        raise DataError(f"cannot be decoded ({error}).") from error


def read_size(path: Path) -> tuple[int, int] | None:
    """Read an image's width and height from its header; None if the header cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001 - any, as in `decode`, which reports the reason
        return None


def _refuse(image: Image.Image) -> None:
    """Raise DataError if the header shows that the image cannot be decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels, {_TOO_LARGE}")
    # A phone's JPEG may contain previews after the picture (MPO). The first frame is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("several frames or pages. Save each of them as a separate image.")
    if image.mode in _UNSCALED:
        raise DataError("32-bit values without a known range. Save it with 8 or 16 bits.")


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in _SIXTEEN_BIT:
        return np.repeat(_eight_bit(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bit(values: NDArray[np.uint16]) -> Pixels:
    # Pillow's own conversion clips at 255, which makes nearly every pixel white.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


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
