"""Files of odd images, written by hand or by tifffile, for comparison with their pixels by definition."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import tifffile
from PIL import Image


def write_tiff(samples: np.ndarray, photometric: str = "rgb", **options: object) -> bytes:
    """Write a TIFF by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric=photometric, **options)
    return buffer.getvalue()


def write_by_pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    """Write an image file by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def maximum_tag(value: int, channels: int = 1, number: int = 281) -> tuple[object, ...]:
    """Return MaxSampleValue, or another tag of its kind, for tifffile's `extratags`."""
    return (number, "H", channels, value if channels == 1 else (value,) * channels, True)


_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # colour type by number of channels


def write_png(samples: np.ndarray, chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Write a PNG of 8 or 16 bits, (H, W, channels), with additional chunks before its pixels."""
    height, width, channels = samples.shape
    depth = samples.itemsize * 8
    header = struct.pack(">IIBBBBB", width, height, depth, _PNG_COLOURS[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(f">u{depth // 8}"))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def gama(gamma: float) -> tuple[bytes, bytes]:
    """Return a gAMA chunk."""
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(*primaries: float) -> tuple[bytes, bytes]:
    """Return a cHRM chunk: x and y of white, red, green and blue."""
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries))


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    """Return an iCCP chunk."""
    return b"iCCP", b"profile\0\0" + zlib.compress(profile)


# ICC profiles, by the ICC's specification 1:2001-04 (version 2).


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        offset = 128 + 4 + 12 * len(tags) + len(body)
        table += name + struct.pack(">II", offset, len(content))
        body += content
    header = struct.pack(">I4s4s4s4s4s", 0, b"test", b"\x02\x10\0\0", b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += _fixed(0.9642) + _fixed(1.0) + _fixed(0.8249)
    header = header.ljust(128, b"\0")
    whole = header + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def rgb_profile(gamma: float, columns: Sequence[Sequence[float]]) -> bytes:
    """Return a profile of a gamma and a matrix, given as the XYZ of red, green and blue under D50."""
    tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"RGB ", _common() | tags)


def grey_profile(gamma: float) -> bytes:
    """Return a profile for grey of a gamma."""
    return _profile(b"GRAY", _common() | {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Return a profile from a table of 16 nodes: L* is 100 without ink, 0 with any full ink; a* = b* = 0."""
    identity = struct.pack(">2H", 0, 65535)
    grid = [0xFF00 if not any(corner) else 0 for corner in np.ndindex(2, 2, 2, 2)]
    table = b"".join(struct.pack(">3H", lightness, 0x8000, 0x8000) for lightness in grid)
    content = b"mft2" + bytes(4) + bytes([4, 3, 2, 0])
    content += b"".join(_fixed(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    content += struct.pack(">2H", 2, 2) + 4 * identity + table + 3 * identity
    profile = _profile(b"CMYK", _common() | {b"A2B0": content, b"A2B1": content})
    return profile[:12] + b"prtr" + profile[16:20] + b"Lab " + profile[24:]


def _common() -> dict[bytes, bytes]:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    return {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz((0.9642, 1.0, 0.8249))}


ADOBE_COLUMNS = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
ADOBE_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_SRGB_COLUMNS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def srgb_of(pixels: np.ndarray, gamma: float, columns: Sequence[Sequence[float]] | None = None) -> np.ndarray:
    """Convert by the definition of sRGB: linear light, XYZ under D50, linear sRGB, the curve; as floats."""
    light = (pixels / 255) ** gamma
    if columns is not None:
        light = light @ (np.linalg.inv(np.transpose(_SRGB_COLUMNS)) @ np.transpose(columns)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
