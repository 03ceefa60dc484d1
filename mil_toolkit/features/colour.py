"""Conversion of an image's colours to sRGB, by its ICC profile or a PNG's gAMA and cHRM.

Colours that are sRGB already, to one level of 255, stay as they are, bit for bit. So the embedding of an
image without a profile does not depend on whether a cache applies profiles.
"""

import io
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from mil_toolkit.core.reading import open_input
from mil_toolkit.features.opening import FORMATS

Colour = Literal["srgb"]
Conversion = Callable[[Image.Image], Image.Image]
Floats = NDArray[np.float64]
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC  # white becomes white, and colours within sRGB become exact
_SMALL_FILE = 2**18  # bytes
_TAGGED_FORMATS = (b"II", b"MM")  # TIFF has no name for a profile that could be searched for
_PROFILES = re.compile(rb"ICC_PROFILE|iCCP|gAMA|cHRM|ICCP")
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # of a profile, by the mode of the image
_SRGB_GAMMA = 0.45455
_GAMMA_TOLERANCE = 0.05  # as in libpng, which does not correct smaller differences
_SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green, blue
_PRIMARIES_TOLERANCE = 0.005
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


class UnusableProfileError(Exception):
    """A colour profile cannot be applied."""


def find_conversion(image: Image.Image, mode: str) -> Conversion | None:
    """Return the conversion of an image's colours to RGB in sRGB; None if they are sRGB or say nothing.

    An ICC profile takes precedence over a PNG's sRGB chunk, which takes precedence over gAMA and cHRM.

    image: whose header has the profile; mode: of its colours: RGB, L or CMYK

    Raises UnusableProfileError if the profile is broken or does not fit the image.
    """
    if "icc_profile" in image.info:
        return _icc_conversion(image.info["icc_profile"] or b"", mode)
    if "srgb" in image.info or mode == "CMYK":
        return None
    gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
    return _png_conversion(gamma, tuple(primaries) if primaries else None)


def needs_conversion(path: Path) -> bool | None:
    """Return whether an image file declares colours that are not sRGB; None if it cannot be read.

    A profile that cannot be applied is ignored, as in `decode`.
    """
    try:
        with open_input(path) as file:
            if _is_plain(file.read(_SMALL_FILE)):
                return False
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                return find_conversion(image, colour_mode(image)) is not None
    except UnusableProfileError:
        return False
    except Exception:  # noqa: BLE001 - any, as in `decode`, which reports the reason
        return None


def _is_plain(start: bytes) -> bool:
    """Return whether a file that starts so is small and without a profile, in less time than Pillow takes."""
    tagged = start.startswith(_TAGGED_FORMATS) or len(start) == _SMALL_FILE
    return not tagged and not _PROFILES.search(start)


def colour_mode(image: Image.Image) -> str:
    """Return the mode of an image's colours without alpha: RGB, L or CMYK."""
    if image.mode in ("RGB", "CMYK"):
        return image.mode
    return "L" if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") else "RGB"


# ICC profiles.


@lru_cache(maxsize=16)
def _icc_conversion(profile: bytes, mode: str) -> Conversion | None:
    transform = _icc_transform(profile, mode)

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image.convert(transform.input_mode), transform)
        assert converted is not None
        return converted

    return None if mode != "CMYK" and _is_identity(convert, mode) else convert


def _icc_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        # Grey under a profile for RGB is a colour with three equal values.
        used = "RGB" if mode == "L" and space == _SPACES["RGB"] else mode
        if space != _SPACES[used]:
            raise UnusableProfileError(f"it is for {space.strip()}, the image is {mode}")
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(source, target, used, "RGB", INTENT)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnusableProfileError("it is damaged") from error


def _is_identity(convert: Conversion, mode: str) -> bool:
    """Return whether a conversion changes no value of a grid by more than one level."""
    image = _grid(mode)
    before, after = np.asarray(image.convert("RGB")).astype(int), np.asarray(convert(image)).astype(int)
    return bool(np.abs(before - after).max() <= 1)


def _grid(mode: str) -> Image.Image:
    """Return an image of all greys, or of 9 x 9 x 9 colours."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))


# PNG's gAMA and cHRM.


@lru_cache(maxsize=16)
def _png_conversion(gamma: float | None, primaries: tuple[float, ...] | None) -> Conversion | None:
    """Return the conversion by gAMA and cHRM (W3C PNG, sections 11.3.2.1 and 11.3.2.2)."""
    if gamma is not None and not 0 < gamma < 100:
        raise UnusableProfileError(f"its gAMA is {gamma:g}")
    same_curve = gamma is None or abs(gamma / _SRGB_GAMMA - 1) < _GAMMA_TOLERANCE
    same_primaries = primaries is None or np.allclose(
        primaries, _SRGB_PRIMARIES, atol=_PRIMARIES_TOLERANCE, rtol=0
    )
    if same_curve and same_primaries:
        return None
    levels = np.arange(256) / 255
    linear = _srgb_to_linear(levels) if same_curve or gamma is None else levels ** (1 / gamma)
    matrix = np.eye(3) if same_primaries or primaries is None else _to_srgb(primaries)

    def convert(image: Image.Image) -> Image.Image:
        light = linear[np.asarray(image.convert("RGB"))] @ matrix.T
        return Image.fromarray((_linear_to_srgb(light.clip(0, 1)) * 255).round().astype(np.uint8))

    return convert


def _srgb_to_linear(values: Floats) -> Floats:
    """Apply the sRGB curve (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(values: Floats) -> Floats:
    """Apply the inverse of the sRGB curve."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def _to_srgb(primaries: Sequence[float]) -> Floats:
    """Return the matrix from linear RGB with these primaries to linear sRGB; Bradford adapts the whites."""
    try:
        source, target = _to_xyz(primaries), _to_xyz(_SRGB_PRIMARIES)
        cones = [_BRADFORD @ matrix.sum(axis=1) for matrix in (source, target)]
        adapted = np.linalg.inv(_BRADFORD) @ np.diag(cones[1] / cones[0]) @ _BRADFORD
        matrix: Floats = np.linalg.inv(target) @ adapted @ source
    except (np.linalg.LinAlgError, ZeroDivisionError):
        raise UnusableProfileError("its cHRM is not a set of primaries") from None
    return matrix


def _to_xyz(primaries: Sequence[float]) -> Floats:
    """Return the matrix from linear RGB to XYZ."""
    white, *colours = (
        np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(primaries[::2], primaries[1::2], strict=True)
    )
    columns = np.stack(colours, axis=1)
    matrix: Floats = columns * np.linalg.solve(columns, white)
    return matrix
