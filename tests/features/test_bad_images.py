"""Runs mil-extract on every kind of image and compares its messages with tests/bad_inputs.md."""

import functools
import io
import os
import random
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.bad_inputs import check_section
from support.commands import Command
from support.jpegs import DAMAGE, draw_smear
from support.zoo import ADOBE_COLUMNS, gama, iccp, maximum_tag, rgb_profile, write_png, write_tiff

from mil_toolkit.backbones import backbones
from mil_toolkit.backbones.backbones import build_backbone

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
    """A PNG without pixels whose header declares side x side of them."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def sixteen_bit(mode: str) -> Image.Image:
    return Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257).convert(mode)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(PICTURE, "JPEG", exif=exif)


def damaged(kind: str) -> bytes:
    whole = saved(draw_smear(np.random.default_rng(4)), "JPEG", quality=95)
    return DAMAGE[kind](whole, random.Random(0))


CLEAR = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], dtype=np.uint8)])
TWELVE = PIXELS.astype(np.uint16) * 16
IN_PLANES = write_tiff(np.moveaxis(TWELVE, 2, 0), planarconfig="separate")
PROFILE = rgb_profile(2.2, ADOBE_COLUMNS)
PNG, JPEG = saved(PICTURE, "PNG"), saved(PICTURE, "JPEG")
Make = bytes | Callable[[Path], None]

# Description and file name of each image, and its content or the function that creates it.
IMAGES: list[tuple[str, str, Make]] = [
    ("JPEG", "x.jpg", JPEG),
    ("JPEG, CMYK", "x.jpg", saved(PICTURE.convert("CMYK"), "JPEG")),
    ("JPEG, rotated by EXIF", "x.jpg", rotated()),
    ("JPEG followed by a preview (MPO)", "x.jpg", frames("MPO")),
    ("PNG", "x.png", PNG),
    ("PNG, grey", "x.png", saved(PICTURE.convert("L"), "PNG")),
    ("PNG, 1 bit", "x.png", saved(PICTURE.convert("1"), "PNG")),
    ("PNG, palette", "x.png", saved(PICTURE.quantize(16), "PNG")),
    ("PNG, transparent", "x.png", saved(PICTURE.convert("RGBA"), "PNG")),
    ("PNG, 16-bit grey", "x.png", saved(sixteen_bit("I;16"), "PNG")),
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
    ("name that is not UTF-8", os.fsdecode(b"caf\xe9.png"), PNG),
    ("link to an image", "x.png", lambda path: (path.parent / "x.png").symlink_to("../P2/good.png")),
    ("TIFF, 12 of 16 bits, declared", "x.tif", write_tiff(TWELVE, extratags=[maximum_tag(4095, 3)])),
    ("TIFF, 12 of 16 bits, not declared", "x.tif", write_tiff(TWELVE)),
    ("PNG, 12 of 16 bits, not declared", "x.png", write_png(TWELVE)),
    ("PNG, all of it transparent", "x.png", write_png(CLEAR)),
    ("TIFF, all of it transparent", "x.tif", write_tiff(CLEAR, extrasamples=["unassalpha"])),
    ("TIFF, 16-bit colours in planes", "x.tif", IN_PLANES),
    ("PNG, colour profile", "x.png", write_png(PIXELS, [iccp(PROFILE)])),
    ("PNG, gamma", "x.png", write_png(PIXELS, [gama(1.0)])),
    ("PNG, damaged colour profile", "x.png", write_png(PIXELS, [iccp(PROFILE[:150])])),
    ("JPEG, damaged colour profile", "x.jpg", saved(PICTURE, "JPEG", icc_profile=PROFILE[:150])),
    ("JPEG, CMYK with subsampling", "x.jpg", saved(PICTURE.convert("CMYK"), "JPEG", subsampling=2)),
    *((f"JPEG, {kind}", "x.jpg", damaged(kind)) for kind in DAMAGE),
    ("empty file", "x.jpg", b""),
    ("text", "x.jpg", b"<html>404 Not Found</html>"),
    ("GIF", "x.png", saved(PICTURE, "GIF")),
    ("JPEG, cut in half", "x.jpg", JPEG[: len(JPEG) // 2]),
    ("JPEG, without its last two bytes", "x.jpg", JPEG[:-2]),
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


def try_out(folder: Path, name: str, make: Make, command: Command) -> tuple[str, str]:
    """The exit code and first message for a cohort whose patient P1 has only this image."""
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
        lines = done.err.replace(f"{folder}/", "").splitlines()
        return "0", "embedded" if "2 embedded" in lines[0] else lines[0]
    message = done.err.splitlines()[0].removeprefix("mil-extract: ").replace(f"{folder}/", "")
    return str(done.code), re.sub(r"decoded [(].*[)]", "decoded (message of Pillow)", message)


def test_the_table_of_images_is_up_to_date(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "build_backbone", functools.cache(build_backbone))
    rows = [
        (description, *try_out(tmp_path / str(number), name, make, command))
        for number, (description, name, make) in enumerate(IMAGES)
    ]
    text = (
        "One run names every image of the cohort that cannot be decoded, or, if most of them fail for the\n"
        "same reason, their number and some of them. The other patients are published. The option\n"
        "`--on-error skip` leaves such images out. Entries that are not files are reported earlier, with\n"
        "the other faults of the cohort."
    )
    check_section("Images", text, ("image", "exit code", "first message"), rows)
