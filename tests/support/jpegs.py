"""JPEGs of every usual kind, and ways to damage them that leave their end marker in place."""

import io
import random
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFilter

SIDE = 224


def draw_smear(source: np.random.Generator, side: int = SIDE) -> Image.Image:
    """Draw an image like a smear: a pale background, dark discs, noise."""
    rows, columns = np.mgrid[:side, :side]
    pixels = np.full((side, side, 3), source.integers(190, 245, 3), dtype=np.float64)
    for _ in range(source.integers(0, 12)):
        y, x, radius = *source.integers(0, side, 2), source.integers(side // 20 + 1, side // 4 + 1)
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = source.integers(20, 220, 3)
    pixels += source.normal(0, source.choice([0.0, 2.0, 6.0]), pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(float(source.choice([0.0, 0.7, 1.5]))))


def good_jpegs(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield whole JPEGs of all qualities, subsamplings, restart intervals; also progressive, grey, CMYK."""
    source = np.random.default_rng(seed)
    for number in range(count):
        image = draw_smear(source, int(source.choice([SIDE, 17, 64, 150])))
        if number % 25 == 0:
            image = Image.new("RGB", image.size, tuple(source.integers(0, 256, 3).tolist()))
        options: dict[str, object] = {
            "quality": int(source.integers(1, 101)),
            "progressive": bool(source.random() < 0.25),
            "optimize": bool(source.random() < 0.25),
            "subsampling": int(source.integers(0, 3)),
        }
        if source.random() < 0.3:
            options["restart_marker_blocks"] = int(source.integers(1, 30))
        mode = source.choice(["RGB", "L", "CMYK"], p=[0.8, 0.1, 0.1])
        yield _encode(image.convert(mode), **options)


def _encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _data(content: bytes) -> int:
    """Return where the compressed data begin."""
    marker = content.index(b"\xff\xda")
    return marker + 2 + int.from_bytes(content[marker + 2 : marker + 4])


def _place(content: bytes, size: int, source: random.Random) -> tuple[int, int]:
    """Return the start and the end of up to `size` bytes of the compressed data."""
    start, end = _data(content), len(content) - 2
    size = min(size, (end - start) // 2)
    first = source.randrange(start, end - size)
    return first, first + size


def _zeros(size: int) -> Callable[[bytes, random.Random], bytes]:
    def damage(content: bytes, source: random.Random) -> bytes:
        first, last = _place(content, size, source)
        return content[:first] + bytes(last - first) + content[last:]

    return damage


def _random_bytes(content: bytes, source: random.Random) -> bytes:
    first, last = _place(content, 512, source)
    return content[:first] + source.randbytes(last - first) + content[last:]


def _missing(content: bytes, source: random.Random) -> bytes:
    first, last = _place(content, 512, source)
    return content[:first] + content[last:]


def _swapped(content: bytes, source: random.Random) -> bytes:
    first, last = _place(content, 2048, source)
    middle = (first + last) // 2
    return content[:first] + content[middle:last] + content[first:middle] + content[last:]


def _truncated(content: bytes, source: random.Random) -> bytes:
    return content[: source.randrange(_data(content), len(content) - 10)] + b"\xff\xd9"


def _flipped(count: int) -> Callable[[bytes, random.Random], bytes]:
    def damage(content: bytes, source: random.Random) -> bytes:
        damaged = bytearray(content)
        for _ in range(count):
            damaged[source.randrange(_data(content), len(content) - 2)] ^= 1 << source.randrange(8)
        return bytes(damaged)

    return damage


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "LF turned into CRLF": lambda content, _: content.replace(b"\n", b"\r\n"),
    "CR left out": lambda content, _: content.replace(b"\r", b""),
    "cut off, end marker added": _truncated,
    "512 bytes missing": _missing,
    "512 random bytes": _random_bytes,
    "two blocks of 1 KiB exchanged": _swapped,
    "4 KiB of zeros": _zeros(4096),
    "512 zeros": _zeros(512),
    "eight flipped bits": _flipped(8),
    "one flipped bit": _flipped(1),
}
