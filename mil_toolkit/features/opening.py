"""`Source`: an image file that Pillow has read, before its samples become RGB.

Pillow is the only decoder, because another decoder might give an image other pixels and so another embedding.
"""

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import PIL
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.reading import MEBIBYTE, open_input
from mil_toolkit.core.text import printable
from mil_toolkit.features.noise import collect_printed

DECODER = f"pillow {PIL.__version__}"
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
MAX_PIXELS = 2**26  # 8,192 x 8,192; larger images are refused by their header, before memory is allocated
MAX_BYTES = 1024 * MEBIBYTE  # of a file; twice as many as MAX_PIXELS with four samples of 16 bits take
TOO_LARGE = f"more than the {MAX_PIXELS:,} that are decoded. Cut it into smaller images."
_UNSCALED = ("I", "F")
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284  # TIFF tags
_SEPARATE = 2


@dataclass(frozen=True)
class Source:
    """An image file and its samples.

    content: of the file
    image: loaded, and rotated according to its EXIF orientation
    raw_mode: Pillow's name of the way in which the file stores samples, such as `RGB;16L`
    """

    content: bytes
    image: Image.Image
    raw_mode: str

    @classmethod
    def read(cls, content: bytes) -> "Source":
        """Read an image file; raises DataError or one of Pillow's many exceptions if it cannot be decoded."""
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _refuse(image)
        raw_mode = _raw_mode(image)
        _refuse_planes(image)
        _load(image)
        return cls(content, image, raw_mode)

    def read_as(self, raw_mode: str) -> Image.Image:
        """Read the samples again as if the file stored them in another way."""
        image = Image.open(io.BytesIO(self.content), formats=FORMATS)
        image.tile = [
            tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        _load(image)
        return image

    def tag(self, number: int) -> object:
        """Return the value of a TIFF's tag; None if the file is not a TIFF or has no such tag."""
        image = self.image
        return image.tag_v2.get(number) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


class ImageContent(NamedTuple):
    """The bytes of an image file, and its state when it was opened."""

    content: bytes
    status: os.stat_result


def read_image_file(path: Path) -> ImageContent:
    """Read a file of at most MAX_BYTES; raises as `open_input` does, and DataError for a larger file."""
    with open_input(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size > MAX_BYTES:
            raise DataError(f"{printable(path)} is larger than {MAX_BYTES // MEBIBYTE:,} MiB.")
        return ImageContent(file.read(status.st_size + 1), status)


def read_size(path: Path) -> tuple[int, int] | None:
    """Read an image's width and height from its header; None if the header cannot be read."""
    try:
        with open_input(path) as file, Image.open(file, formats=FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001 - any, as in `decode`, which reports the reason
        return None


def _refuse(image: Image.Image) -> None:
    """Raise DataError if the header shows that the image cannot be decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels, {TOO_LARGE}")
    # A phone's JPEG may contain previews after the picture (MPO). The first frame is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DataError("several frames or pages. Save each of them as a separate image.")
    if image.mode in _UNSCALED:
        raise DataError("32-bit values without a known range. Save it with 8 or 16 bits.")


def _refuse_planes(image: ImageFile.ImageFile) -> None:
    """Raise DataError for a TIFF that Pillow misreads: it takes 16-bit planes for planes of 8 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.tile[0].codec_name != "raw":
        return
    tags = image.tag_v2
    if tags.get(_PLANAR_CONFIGURATION) == _SEPARATE and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
        raise DataError("16-bit colours in separate planes. Save it with 8 bits, or as a PNG.")


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return the raw mode of an image that is not loaded yet; empty if its format has none."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _load(image: ImageFile.ImageFile) -> None:
    is_libtiff = bool(image.tile) and image.tile[0].codec_name == "libtiff"
    printed: Callable[[], contextlib.AbstractContextManager[None]] = (
        collect_printed if is_libtiff else contextlib.nullcontext
    )
    with printed():
        image.load()
    ImageOps.exif_transpose(image, in_place=True)
