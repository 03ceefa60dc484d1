"""Decoding any image safely, with Pillow alone: one decoder means one embedding per image."""

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mil_toolkit.core.errors import DataError

DECODER = f"pillow {PIL.__version__}"
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 2**26  # 8,192 x 8,192; refused on the header, before any memory is taken
_TOO_LARGE = f"more than the {MAX_PIXELS:,} that are decoded. Cut it into smaller images."
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_UNSCALED = ("I", "F")
Pixels = NDArray[np.uint8]


def decode(content: bytes) -> Pixels:
    """The image in `content` as RGB, (H, W, 3) uint8, upright by its EXIF orientation.

    The content decides on the format, not the name's ending. Transparency is laid on white, the background
    of a smear under bright-field light. 16-bit grey is scaled by 1/257, so that 65,535 becomes 255.

    Raises DataError with the reason: empty, truncated, no image of FORMATS, several frames,
    more than MAX_PIXELS, 32-bit values without a known range.
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
        raise DataError(f"not an image of {', '.join(FORMATS)}.") from None
    except Exception as error:  # a broken file makes Pillow's parsers raise nearly anything
        raise DataError(f"cannot be decoded ({error}).") from error


def read_size(path: Path) -> tuple[int, int] | None:
    """An image's width and height by its header alone; None where that cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001 - as in `decode`, which says what is wrong with it
        return None


def _refuse(image: Image.Image) -> None:
    """Refuse on the header alone what cannot be one bounded picture."""
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels, {_TOO_LARGE}")
    # A phone's JPEG may carry previews behind its picture (MPO): the first one is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("several frames or pages. Save each as an image of its own.")
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
    # Pillow's own conversion clips at 255 and shows nearly everything as white.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def centre_crop(pixels: Pixels, size: int) -> Pixels:
    """The middle `size` x `size` pixels; raises DataError where the image is smaller."""
    height, width, _ = pixels.shape
    if min(height, width) < size:
        raise DataError(f"{width} x {height} pixels are fewer than a crop of {size}.")
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def resize(pixels: Pixels, size: int) -> Pixels:
    """To `size` x `size`, whatever the shape was; bilinear, averaging where it shrinks (no aliasing)."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def otsu_threshold(values: NDArray[np.uint8]) -> int:
    """The value up to which the lower class reaches where between-class variance is largest; Otsu 1979.

    Where several are as good, the lowest.
    """
    counts = np.bincount(values.ravel(), minlength=256)
    below = counts.cumsum()  # pixels at most as large as each value
    sums = (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
    return int(np.nan_to_num(below * above * gap**2, posinf=0).argmax())


def saturation_mask(pixels: Pixels, threshold: int | None = None) -> Pixels:
    """Everything whose HSV saturation is at most `threshold` (0 to 255) in black; Sampathila et al. 2022.

    Stained nuclei are the saturated part of a smear. By default the threshold is Otsu's, image by image.
    """
    saturation = np.asarray(Image.fromarray(pixels).convert("HSV"))[:, :, 1]
    kept = saturation > (otsu_threshold(saturation) if threshold is None else threshold)
    return pixels * kept[:, :, None]


def unchanged(pixels: Pixels) -> Pixels:
    """The preprocessing that does nothing."""
    return pixels


PREPROCESSES: dict[str, Callable[[Pixels], Pixels]] = {
    "none": unchanged,
    "saturation-mask": saturation_mask,
}


def prepare(pixels: Pixels, image_size: int, crop: int, preprocess: str) -> Pixels:
    """Crop (0: not at all), resize, preprocess: (H, W, 3) -> (image_size, image_size, 3) uint8."""
    if crop:
        pixels = centre_crop(pixels, crop)
    return PREPROCESSES[preprocess](resize(pixels, image_size))


Job = TypeVar("Job")
Loaded = TypeVar("Loaded")


def load_all(
    jobs: Iterator[Job], load: Callable[[Job], Loaded], workers: int, window: int, ahead: bool
) -> Iterator[Loaded]:
    """The jobs loaded by threads, in their order, with at most `window` of them in memory.

    With `ahead` the window is filled up while the network computes; without, as a whole, when it is used up.
    """
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        futures: deque[Future[Loaded]] = deque()
        while True:
            if ahead or not futures:
                futures.extend(pool.submit(load, job) for job in islice(jobs, window - len(futures)))
            if not futures:
                return
            yield futures.popleft().result()
