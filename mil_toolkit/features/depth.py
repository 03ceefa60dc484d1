"""`to_eight_bits`: samples of up to 16 bits, scaled to 8 bits by the range that the file declares."""

import re
import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.opening import Source

_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _DESCRIPTION = 258, 262, 270  # TIFF tags
_MAXIMUM_TAGS = {281: "MaxSampleValue", 341: "SMaxSampleValue"}
_WHITE_IS_ZERO = 0
_OME_BITS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*\bSignificantBits\s*=\s*[\"'](\d+)[\"']")
_SUSPICIOUS = 14  # bits: an image of a smear whose values need no more is probably not one of 16 bits
_USUAL = (8, 10, 12, 14)
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
Samples = NDArray[np.uint16]


class DeclaredRange(NamedTuple):
    """The number of bits that samples use, and what in the file says so."""

    bits: int
    source: str


def to_eight_bits(source: Source, notes: list[str]) -> Image.Image:
    """Return the image with 8 bits per sample.

    16-bit samples are scaled by 1/257, or, where the file declares fewer bits, by 255 / (2^bits - 1). The
    declaration is a TIFF's BitsPerSample, MaxSampleValue or SMaxSampleValue, the SignificantBits of its
    OME-XML, or a PNG's sBIT. A range that the samples exceed is not used. 16-bit colours in the full range
    keep their upper byte.

    notes: gets a line if the samples are small and nothing declares their range, or if it is declared wrongly
    """
    if source.image.mode in _GREY:
        return Image.fromarray(_scale_grey(source, notes))
    return _scale_colours(source, notes) if ";16" in source.raw_mode else source.image


def _scale_grey(source: Source, notes: list[str]) -> NDArray[np.uint8]:
    values = np.asarray(source.image).astype(np.uint16)
    bits = _bits(source, int(values.max()), notes)
    scaled = _scale(values, bits)
    return 255 - scaled if source.tag(_PHOTOMETRIC) == _WHITE_IS_ZERO else scaled


def _scale_colours(source: Source, notes: list[str]) -> Image.Image:
    """Scale 16-bit colours, of which Pillow keeps the upper byte."""
    image, upper = source.image, np.asarray(source.image)
    colours = 1 if image.mode == "LA" else min(upper.shape[2], 4 if image.mode == "CMYK" else 3)
    largest = int(upper[..., :colours].max())
    maximum = (largest << 8) + 255 if largest else 0
    declared = _declared_range(source)
    if maximum >> (_SUSPICIOUS if declared is None else declared.bits):
        _bits(source, maximum, notes)
        return image
    lower = _lower_bytes(source)
    if lower is None:
        if declared and declared.bits < 16:
            raise DataError(
                f"{declared.source}: {source.raw_mode} samples of fewer than 16 bits. Save it with 8."
            )
        _bits(source, maximum, notes)
        return image
    values: Samples = upper.astype(np.uint16) * np.uint16(256) + lower
    bits = _bits(source, int(values[..., :colours].max()), notes)
    if bits == 16:
        return image
    alpha = values[..., colours:]
    alpha_bits = 16 if alpha.size and alpha.max() >> bits else bits
    samples = np.concatenate([_scale(values[..., :colours], bits), _scale(alpha, alpha_bits)], axis=2)
    return Image.frombytes(image.mode, image.size, samples.tobytes())


def _lower_bytes(source: Source) -> NDArray[np.uint8] | None:
    """Read the lower bytes of 16-bit colours, by exchanging the order of bytes; None if Pillow cannot."""
    if "a;16" in source.raw_mode:  # colours multiplied by alpha, which Pillow divides by it
        return None
    try:
        return np.asarray(source.read_as(source.raw_mode[:-1] + _OTHER_BYTE[source.raw_mode[-1]]))
    except (ValueError, OSError):
        return None


def _bits(source: Source, maximum: int, notes: list[str]) -> int:
    """Return the number of bits to scale by, given the largest sample."""
    declared = _declared_range(source)
    if declared is None:
        if maximum > 0 and not maximum >> _SUSPICIOUS:
            notes.append(_small(maximum))
        return 16
    if not maximum >> declared.bits:
        return declared.bits
    if source.image.format != "PNG":  # whose samples fill all 16 bits, whatever sBIT says of their origin
        notes.append(f"{declared.source} does not fit values up to {maximum:,}; read as 16 bits.")
    return 16


def _small(maximum: int) -> str:
    likely = next(bits for bits in _USUAL if not maximum >> bits)
    return (
        f"its largest 16-bit value is {maximum:,} of 65,535, so it may be very dark. If it has {likely} bits,"
        f" save it with 8 bits, or as a TIFF with MaxSampleValue {2**likely - 1}."
    )


def _scale(values: Samples, bits: int) -> NDArray[np.uint8]:
    """Scale 0 to 2^bits - 1 to 0 to 255, rounded."""
    # Pillow's own conversion of 16-bit grey clips at 255, which makes nearly every pixel white.
    full = 2**bits - 1
    return ((values.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)


def _declared_range(source: Source) -> DeclaredRange | None:
    if source.image.format == "PNG":
        significant = max(_png_chunk(source.content, b"sBIT"), default=0)
        return DeclaredRange(significant, f"sBIT {significant}") if 0 < significant <= 16 else None
    return _declared_by_tags(source)


def _declared_by_tags(source: Source) -> DeclaredRange | None:
    """Return the range that a TIFF declares."""
    stored = _largest(source.tag(_BITS_PER_SAMPLE))
    if stored < 16:
        return DeclaredRange(stored, f"BitsPerSample {stored}") if stored else None
    for number, name in _MAXIMUM_TAGS.items():
        if 0 < (maximum := _largest(source.tag(number))) < 2**16:
            return DeclaredRange(maximum.bit_length(), f"{name} {maximum}")
    if (match := _OME_BITS.search(str(source.tag(_DESCRIPTION)))) and 0 < int(match[1]) <= 16:
        return DeclaredRange(int(match[1]), f"SignificantBits {match[1]}")
    return None


def _largest(value: object) -> int:
    """Return the largest number of a tag, 0 if there is none."""
    values = value if isinstance(value, tuple) else (value,)
    return max((int(number) for number in values if isinstance(number, int | float)), default=0)


def _png_chunk(content: bytes, kind: bytes) -> bytes:
    """Return the content of a PNG's first chunk of a kind before the pixels; empty if there is none."""
    position = 8
    while (name := content[position + 4 : position + 8]) not in (b"", b"IDAT"):
        length = int.from_bytes(content[position : position + 4])
        if name == kind:
            return content[position + 8 : position + 8 + length]
        position += length + 12
    return b""
