"""`decode`: an image file as RGB, or the reason why it cannot be used."""

from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.alpha import blend, split_alpha
from mil_toolkit.features.colour import Colour, UnusableProfileError, colour_mode, find_conversion
from mil_toolkit.features.depth import to_eight_bits
from mil_toolkit.features.jpeg import find_damage
from mil_toolkit.features.noise import collect_noise
from mil_toolkit.features.opening import FORMATS, TOO_LARGE, Source
from mil_toolkit.features.stain import Pixels

_JPEG = b"\xff\xd8"
_SIGNATURES = {
    _JPEG: "JPEG",
    b"\x89PNG": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
}


class Decoded(NamedTuple):
    """A decoded RGB image, and what its user should know about it."""

    image: Image.Image
    notes: tuple[str, ...]

    @property
    def pixels(self) -> Pixels:
        """The image as an array (H, W, 3) uint8."""
        return np.asarray(self.image)


def decode_noting(content: bytes, colour: Colour | None = None) -> Decoded:
    """Decode an image file to RGB, rotated according to its EXIF orientation.

    The format is recognised by the content, not by the file's extension. Transparent pixels are blended with
    white, the background of a smear under bright-field light; see `split_alpha` for exceptions. See
    `to_eight_bits` for samples of more than 8 bits.

    colour: `srgb` to convert the colours to sRGB, see `find_conversion`; None to leave them as stored

    Raises DataError with the reason: empty, truncated, damaged, not one of FORMATS, several frames, more than
    MAX_PIXELS, 32-bit values without a known range.
    """
    if not content:
        raise DataError("the file is empty.")
    try:
        with collect_noise() as noise:
            image, notes = _decode(content, colour)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(TOO_LARGE) from None
    except PIL.UnidentifiedImageError:
        raise DataError(_unidentified(content)) from None
    except Exception as error:  # Pillow's parsers raise nearly any exception on a corrupt file
        raise DataError(f"cannot be decoded ({'; '.join([str(error), *noise])}).") from error
    said = dict.fromkeys(f"the decoder says: {line}" for line in noise)
    return Decoded(image, (*notes, *said))


def decode(content: bytes, colour: Colour | None = None) -> Pixels:
    """Return only the pixels of `decode_noting`."""
    return decode_noting(content, colour).pixels


def _decode(content: bytes, colour: Colour | None) -> tuple[Image.Image, list[str]]:
    notes: list[str] = []
    source = Source.read(content)
    if content.startswith(_JPEG) and (damage := find_damage(content, notes)):
        raise DataError(f"is damaged ({damage}).")
    colours, alpha = split_alpha(source, to_eight_bits(source, notes), notes)
    rgb = _to_rgb(source, colours, colour, notes)
    return blend(rgb, alpha) if alpha else rgb, notes


def _to_rgb(source: Source, image: Image.Image, colour: Colour | None, notes: list[str]) -> Image.Image:
    """Convert colours to RGB, by their profile if `colour` says so."""
    try:
        convert = find_conversion(source.image, colour_mode(image))
    except UnusableProfileError as error:
        notes.append(f"its colour profile is ignored: {error}.")
        convert = None
    if convert and colour:
        return convert(image)
    if convert:
        notes.append("its colour profile is not applied, because the features were made without profiles.")
    return image if image.mode == "RGB" else image.convert("RGB")


def _unidentified(content: bytes) -> str:
    kind = next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)
    if kind:
        return f"a {kind} that is damaged, or of a kind that cannot be decoded. Save it as a PNG with 8 bits."
    return f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image."
