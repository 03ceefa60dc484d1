# The table of images that a laboratory may have, and what mil-extract says of each.
"""Runs mil-extract on every kind of image and holds tests/bad_images.md to what it said."""

import functools
import io
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Command

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.features import extract as extraction

TABLE = Path(__file__).with_name("bad_images.md")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
OPTIONS = (
    "--backbone",
    "resnet18",
    "--weights",
    "random",
    "--image-size",
    32,
    "--device",
    "cpu",
    "--crop",
    36,
)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str) -> bytes:
    return saved(PICTURE, kind, save_all=True, append_images=[Image.fromarray(255 - PIXELS)])


def bomb(side: int) -> bytes:
    """A PNG without pixels, whose header announces side x side of them."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(each)) + kind + each + struct.pack(">I", zlib.crc32(kind + each))
        for kind, each in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def sixteen(mode: str) -> Image.Image:
    return Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257).convert(mode)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(PICTURE, "JPEG", exif=exif)


PNG, JPEG = saved(PICTURE, "PNG"), saved(PICTURE, "JPEG")
Make = bytes | Callable[[Path], None]

# What the image is, its name, its content or what makes it.
IMAGES: list[tuple[str, str, Make]] = [
    ("JPEG", "x.jpg", JPEG),
    ("JPEG, CMYK", "x.jpg", saved(PICTURE.convert("CMYK"), "JPEG")),
    ("JPEG, turned by EXIF", "x.jpg", turned()),
    ("JPEG with a preview behind it (MPO)", "x.jpg", frames("MPO")),
    ("PNG", "x.png", PNG),
    ("PNG, grey", "x.png", saved(PICTURE.convert("L"), "PNG")),
    ("PNG, 1 bit", "x.png", saved(PICTURE.convert("1"), "PNG")),
    ("PNG, palette", "x.png", saved(PICTURE.quantize(16), "PNG")),
    ("PNG, transparent", "x.png", saved(PICTURE.convert("RGBA"), "PNG")),
    ("PNG, 16-bit grey", "x.png", saved(sixteen("I;16"), "PNG")),
    ("TIFF", "x.tif", saved(PICTURE, "TIFF")),
    ("TIFF, LZW", "x.tiff", saved(PICTURE, "TIFF", compression="tiff_lzw")),
    ("BMP", "x.bmp", saved(PICTURE, "BMP")),
    ("WebP", "x.webp", saved(PICTURE, "WEBP")),
    ("PNG called .jpg", "x.jpg", PNG),
    ("name with spaces", "a cell, no 2.png", PNG),
    ("name with a newline", "a\nb.png", PNG),
    ("name with a leading dash", "-rf.png", PNG),
    ("name in composed Unicode", unicodedata.normalize("NFC", "zéro.png"), PNG),
    ("name in decomposed Unicode", unicodedata.normalize("NFD", "zéro.png"), PNG),
    ("name that is no UTF-8", os.fsdecode(b"caf\xe9.png"), PNG),
    ("link to an image", "x.png", lambda path: (path.parent / "x.png").symlink_to("../P2/good.png")),
    ("empty file", "x.jpg", b""),
    ("text", "x.jpg", b"<html>404 Not Found</html>"),
    ("GIF", "x.png", saved(PICTURE, "GIF")),
    ("JPEG, cut in half", "x.jpg", JPEG[: len(JPEG) // 2]),
    ("JPEG, its last two bytes cut", "x.jpg", JPEG[:-2]),
    ("PNG, cut in half", "x.png", PNG[: len(PNG) // 2]),
    ("PNG, one flipped bit", "x.png", PNG[:2000] + bytes([PNG[2000] ^ 1]) + PNG[2001:]),
    ("TIFF, cut in half", "x.tif", saved(PICTURE, "TIFF")[:3000]),
    ("PNG, only a header of 40,000 x 40,000", "x.png", bomb(40_000)),
    ("PNG, only a header of 9,000 x 9,000", "x.png", bomb(9_000)),
    ("animated PNG", "x.png", frames("PNG")),
    ("animated WebP", "x.webp", frames("WEBP")),
    ("TIFF of two pages", "x.tif", frames("TIFF")),
    ("TIFF, 32-bit floating point", "x.tif", saved(PICTURE.convert("F"), "TIFF")),
    ("TIFF, 32-bit integers", "x.tif", saved(PICTURE.convert("I"), "TIFF")),
    ("smaller than the crop", "x.png", saved(Image.new("RGB", (20, 30)), "PNG")),
    ("folder called .png", "x.png", lambda path: path.mkdir()),
    ("link to itself", "x.png", lambda path: path.symlink_to("x.png")),
    ("link to nothing", "x.png", lambda path: path.symlink_to("nowhere.png")),
    ("named pipe", "x.png", lambda path: os.mkfifo(path)),
]


def try_out(folder: Path, name: str, make: Make, command: Command) -> str:
    """The exit code, and what was said first, of a cohort with this image alone in P1."""
    for patient in ("P1", "P2"):
        (folder / "images" / patient).mkdir(parents=True)
    (folder / "images/P2/good.png").write_bytes(PNG)
    path = folder / "images/P1" / name
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    (folder / "table.csv").write_text("ID\nP1\nP2\n")
    (folder / "cohort.toml").write_text(
        '[cohort]\nname = "c"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\n'
    )
    done = command("extract", folder / "cohort.toml", *OPTIONS, "--cache", folder / "cache")
    assert "Traceback" not in done.err
    if done.code == 0:
        return "0 | embedded" if "2 embedded" in done.err else f"0 | {done.err.splitlines()[0]}"
    said = done.err.splitlines()[0].removeprefix("mil-extract: ").replace(f"{folder}/", "")
    return f"{done.code} | {re.sub(r'decoded [(].*[)]', 'decoded (what Pillow says)', said)}"


def test_the_table_of_images_is_what_is_said(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not, the new table lies beside: read it, and copy it."""
    monkeypatch.setattr(extraction, "build_backbone", functools.cache(build_backbone))
    rows = [
        f"| {what} | {try_out(tmp_path / str(number), name, make, command)} |"
        for number, (what, name, make) in enumerate(IMAGES)
    ]
    head = [
        "# Images tried, and what mil-extract said of each",
        "",
        "Written by tests/test_bad_images.py, which fails where this is no longer so. Exit code 3 is bad data. Every",
        "image of a cohort that cannot be decoded is named in one run (where most fail alike, some of them and their number)",
        "and the other patients are published; with",
        "`--on-error skip` it is left out. What is no file at all is named before, with the other faults of the cohort.",
        "",
        "| image | exit code | said |",
        "| --- | --- | --- |",
    ]
    found = "\n".join([*head, *rows, ""])
    (tmp_path / TABLE.name).write_text(found)
    assert TABLE.read_text() == found, f"cp {tmp_path / TABLE.name} {TABLE}"
