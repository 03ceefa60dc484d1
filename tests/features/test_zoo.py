"""Odd images: each with its right pixels, which do not come from Pillow, or the reason why it is refused."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from support.zoo import (
    ADOBE_COLUMNS,
    ADOBE_PRIMARIES,
    chrm,
    cmyk_profile,
    gama,
    grey_profile,
    iccp,
    maximum_tag,
    rgb_profile,
    srgb_of,
    write_by_pillow,
    write_png,
    write_tiff,
)

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.decoding import decode_noting

SOURCE = np.random.default_rng(0)
SHAPE = (9, 13)
RGB = SOURCE.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
GREY = RGB[..., :1]
WIDE = SOURCE.integers(0, 65536, (*SHAPE, 3), dtype=np.uint16)
OPAQUE, CLEAR = (np.full((*SHAPE, 1), value, dtype=np.uint8) for value in (255, 0))
ADOBE = rgb_profile(563 / 256, ADOBE_COLUMNS)

# Name, file, right pixels (None: refused), allowed difference, words of the notes or of the refusal.
Animal = tuple[str, bytes, np.ndarray | None, float, str]


def drawn(bits: int) -> np.ndarray:
    """Random samples of so many bits in words of 16."""
    samples = SOURCE.integers(0, 2**bits, (*SHAPE, 3), dtype=np.uint16)
    samples[0, 0] = 2**bits - 1
    return samples


def scaled(samples: np.ndarray, bits: int) -> np.ndarray:
    return np.floor(samples / (2**bits - 1) * 255 + 0.5)


def ome(bits: int) -> str:
    return f'<OME><Image><Pixels ID="P" SignificantBits="{bits}" Type="uint16"/></Image></OME>'


def deep_tiffs() -> Iterator[Animal]:
    for bits in (10, 12, 14):
        samples, full = drawn(bits), 2**bits - 1
        grey, right, right_grey = samples[..., 0], scaled(samples, bits), scaled(samples[..., :1], bits)
        three = {"extratags": [maximum_tag(full, 3)]}
        for order in "<>":
            yield f"{bits} bits, colour, {order}", write_tiff(samples, byteorder=order, **three), right, 0, ""
        zipped = write_tiff(samples, compression="zlib", **three)
        yield f"{bits} bits, deflated", zipped, right, 0, ""
        for number in (281, 341):
            tags = [maximum_tag(full, 1, number)]
            content = write_tiff(grey, "minisblack", extratags=tags)
            yield f"{bits} bits, grey, tag {number}", content, right_grey, 0, ""
        content = write_tiff(grey, "minisblack", description=ome(bits))
        yield f"{bits} bits, OME-XML", content, right_grey, 0, ""
        low = write_tiff(grey, "minisblack")
        yield f"{bits} bits, not declared", low, np.floor(grey[..., None] / 257 + 0.5), 0, f"{bits} bits"
        low = write_tiff(samples)
        yield f"{bits} bits, colour, not declared", low, samples >> 8, 0, "may be very dark"
    twelve = drawn(12)
    predicted = write_tiff(twelve, compression="zlib", predictor=True, extratags=[maximum_tag(4095, 3)])
    yield "12 bits, predictor", predicted, scaled(twelve, 12), 0, ""
    tiles = write_tiff(twelve, tile=(16, 16), extratags=[maximum_tag(4095, 3)])
    yield "12 bits, tiles", tiles, scaled(twelve, 12), 0, ""
    bare = np.dstack([twelve, np.full(SHAPE, 4095, dtype=np.uint16)])
    alpha = write_tiff(bare, extrasamples=["unassalpha"], extratags=[maximum_tag(4095, 4)])
    yield "12 bits with alpha", alpha, scaled(twelve, 12), 0, ""
    wrong = write_tiff(WIDE[..., 0], "minisblack", extratags=[maximum_tag(4095)])
    yield "16 bits, declared as 12", wrong, scaled(WIDE[..., :1], 16), 0, "does not fit"
    yield "packed 12 bits", packed_twelve(twelve[..., 0]), scaled(twelve[..., :1], 12), 0, ""


def packed_twelve(samples: np.ndarray) -> bytes:
    """A TIFF whose two neighbouring samples share three bytes: BitsPerSample is 12."""
    rows = []
    for row in samples.astype(np.uint32):
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows.append(int(bits, 2).to_bytes(len(bits) // 8))
    content = write_tiff(np.zeros((len(rows), len(rows[0])), dtype=np.uint8), "minisblack")
    data = b"".join(rows)
    content = content[: -len(data)] + data  # tifffile writes the samples last
    return patched(patched(content, 258, 12), 256, samples.shape[1])


def patched(content: bytes, number: int, value: int) -> bytes:
    """Set the value of a tag with one number in a little-endian TIFF."""
    start = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[start : start + 2], "little")
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if int.from_bytes(content[entry : entry + 2], "little") == number:
            return content[: entry + 8] + value.to_bytes(4, "little") + content[entry + 12 :]
    raise KeyError(number)


def wide_images() -> Iterator[Animal]:
    yield "TIFF, 16-bit colour", write_tiff(WIDE), WIDE >> 8, 0, ""
    yield "TIFF, 16-bit colour, deflated", write_tiff(WIDE, compression="zlib"), WIDE >> 8, 0, ""
    planes = np.moveaxis(WIDE, 2, 0)
    yield "16-bit planes", write_tiff(planes, planarconfig="separate"), None, 0, "separate planes"
    zipped = write_tiff(planes, planarconfig="separate", compression="zlib")
    yield "16-bit planes, deflated", zipped, WIDE >> 8, 0, ""
    yield "8-bit planes", write_tiff(np.moveaxis(RGB, 2, 0), planarconfig="separate"), RGB, 0, ""
    yield "BigTIFF", write_tiff(RGB, bigtiff=True), RGB, 0, ""
    yield "white is zero, 8 bits", write_tiff(GREY[..., 0], "miniswhite"), 255 - GREY, 0, ""
    inverted = 255 - scaled(WIDE[..., :1], 16)
    yield "white is zero, 16 bits", write_tiff(WIDE[..., 0], "miniswhite"), inverted, 0, ""
    yield (
        "TIFF, 16-bit floating point",
        write_tiff(WIDE[..., 0].astype(np.float16), "minisblack"),
        None,
        0,
        "TIFF",
    )
    yield "TIFF, signed 16 bits", write_tiff(WIDE[..., 0].astype(np.int16), "minisblack"), None, 0, "32-bit"
    for bits in (10, 12, 14):
        samples = drawn(bits)
        chunk = (b"sBIT", bytes([bits] * 3))
        yield f"PNG, {bits} bits", write_png(samples, [chunk]), scaled(samples, bits), 0, ""
        shifted = samples << (16 - bits)
        yield f"PNG, {bits} bits, shifted", write_png(shifted, [chunk]), shifted >> 8, 0, ""
        grey = write_png(samples[..., :1], [(b"sBIT", bytes([bits]))])
        yield f"PNG, grey, {bits} bits", grey, scaled(samples[..., :1], bits), 0, ""
        yield f"PNG, {bits} bits, not declared", write_png(samples), samples >> 8, 0, "may be very dark"
    black = np.zeros((*SHAPE, 1), dtype=np.uint16)
    yield "PNG, 16 bits, black", write_png(black), black, 0, ""


IGNORED = "the alpha is ignored"


def transparent_images() -> Iterator[Animal]:
    rgba, la = np.dstack([RGB, CLEAR]), np.dstack([GREY, CLEAR])
    yield "PNG, clear", write_png(rgba), RGB, 0, IGNORED
    yield "PNG, grey, clear", write_png(la), GREY, 0, IGNORED
    yield "PNG, alpha of 0 and 1", write_png(np.dstack([RGB, CLEAR | (GREY > 99)])), RGB, 0, IGNORED
    yield "PNG, opaque", write_png(np.dstack([RGB, OPAQUE])), RGB, 0, ""
    wide = np.dstack([WIDE, np.zeros(SHAPE, dtype=np.uint16)])
    yield "PNG, 16 bits, clear", write_png(wide), WIDE >> 8, 0, IGNORED
    webp = write_by_pillow(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)
    yield "WebP, clear", webp, RGB, 0, IGNORED
    palette = Image.fromarray(GREY[..., 0] // 64, "L")
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    colours = SOURCE.integers(0, 256, (4, 3), dtype=np.uint8)
    palette.putpalette(colours.tobytes())
    chosen = colours[GREY[..., 0] // 64]
    for name, transparency in (("all", bytes(4)), ("no", b"\xff" * 4)):
        content = write_by_pillow(palette, "PNG", transparency=transparency)
        yield f"PNG, palette, {name} colours clear", content, chosen, 0, IGNORED * (name == "all")
    uniform = np.full((*SHAPE, 3), 77, dtype=np.uint8)
    keyed = write_png(uniform, [(b"tRNS", b"\0\x4d" * 3)])
    yield "PNG, its only colour clear", keyed, uniform, 0, IGNORED
    for meaning, said in (("unassalpha", IGNORED), ("assocalpha", IGNORED), ("unspecified", "")):
        options = {"extrasamples": [meaning]}
        yield f"TIFF, {meaning} 0", write_tiff(rgba, **options), RGB, 0, said
        zipped = write_tiff(rgba, compression="zlib", **options)
        yield f"TIFF, {meaning} 0, deflated", zipped, RGB, 0, said
        yield f"TIFF, grey, {meaning} 0", write_tiff(la, "minisblack", **options), GREY, 0, said
        wide_tiff = write_tiff(wide, **options)
        if meaning != "assocalpha":
            yield f"TIFF, 16 bits, {meaning} 0", wide_tiff, WIDE >> 8, 0, said
    half = np.dstack([RGB, GREY])
    fourth = write_tiff(half, extrasamples=["unspecified"]).replace(b"\x52\x01\x03\0", b"\x53\xff\x03\0", 1)
    yield "TIFF, a fourth sample, no ExtraSamples", fourth, RGB, 0, "fourth sample"
    blended = RGB * (GREY / 255) + 255 * (1 - GREY / 255)
    yield "TIFF, half transparent", write_tiff(half, extrasamples=["unassalpha"]), blended, 1, ""
    yield "PNG, half transparent", write_png(half), blended, 1, ""


def coloured_images() -> Iterator[Animal]:
    adobe = srgb_of(RGB, 563 / 256, ADOBE_COLUMNS)
    image = Image.fromarray(RGB)
    yield "PNG, ICC", write_png(RGB, [iccp(ADOBE)]), adobe, 2, ""
    yield "TIFF, ICC", write_tiff(RGB, iccprofile=ADOBE), adobe, 2, ""
    webp = write_by_pillow(image, "WEBP", lossless=True, icc_profile=ADOBE)
    yield "WebP, ICC", webp, adobe, 2, ""
    jpeg = write_by_pillow(image, "JPEG", icc_profile=ADOBE, quality=95)
    plain = np.asarray(Image.open(io.BytesIO(jpeg))).astype(float)
    yield "JPEG, ICC", jpeg, srgb_of(plain, 563 / 256, ADOBE_COLUMNS), 2, ""
    grey = write_png(GREY, [iccp(grey_profile(1.75))])
    yield "PNG, grey, ICC", grey, srgb_of(GREY, 1.75), 2, ""
    under_rgb = srgb_of(np.repeat(GREY, 3, 2), 563 / 256, ADOBE_COLUMNS)
    yield "PNG, grey, ICC for RGB", write_png(GREY, [iccp(ADOBE)]), under_rgb, 2, ""
    clear = np.dstack([RGB, OPAQUE])
    clear[0, :, 3] = 0
    white_row = adobe.copy()
    white_row[0] = 255
    yield "PNG, alpha, ICC", write_png(clear, [iccp(ADOBE)]), white_row, 2, ""
    wide = write_png(RGB.astype(np.uint16) * 257, [iccp(ADOBE)])
    yield "PNG, 16 bits, ICC", wide, adobe, 2, ""
    yield "PNG, gAMA 1", write_png(RGB, [gama(1.0)]), srgb_of(RGB, 1.0), 0.51, ""
    yield "PNG, grey, gAMA 1", write_png(GREY, [gama(1.0)]), srgb_of(GREY, 1.0), 0.51, ""
    yield "PNG, gAMA 1/1.8", write_png(RGB, [gama(1 / 1.8)]), srgb_of(RGB, 1.8), 0.52, ""
    content = write_png(RGB, [chrm(*ADOBE_PRIMARIES), gama(1 / 1.8)])
    yield "PNG, cHRM and gAMA", content, srgb_of(RGB, 1.8, ADOBE_COLUMNS), 2, ""
    yield "PNG, gAMA of sRGB", write_png(RGB, [gama(0.45455)]), RGB, 0, ""
    yield "PNG, sRGB before gAMA", write_png(RGB, [(b"sRGB", b"\0"), gama(1.0)]), RGB, 0, ""
    yield "PNG, iCCP before gAMA", write_png(RGB, [iccp(ADOBE), gama(1.0)]), adobe, 2, ""
    yield "PNG, gAMA 0", write_png(RGB, [gama(0)]), RGB, 0, "profile is ignored"
    broken = "colour profile is ignored"
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        content = write_by_pillow(image, kind, icc_profile=ADOBE[:150], **options)
        yield f"{kind}, broken ICC", content, RGB, 0, broken
    content = write_png(RGB, [(b"iCCP", b"profile\0\0garbage")])
    yield "PNG, iCCP that does not unpack", content, RGB, 0, broken
    yield "PNG, ICC for grey", write_png(RGB, [iccp(grey_profile(1.0))]), RGB, 0, "is for GRAY"
    inks = np.zeros((*SHAPE, 4), dtype=np.uint8)
    inks[4:, :, 1] = 255
    cmyk = Image.frombytes("CMYK", SHAPE[::-1], inks.tobytes())
    split = np.where(np.arange(9)[:, None, None] < 4, 255, 0) * np.ones((*SHAPE, 3))
    content = write_by_pillow(cmyk, "TIFF", icc_profile=cmyk_profile())
    yield "TIFF, CMYK, ICC", content, split, 2, ""
    content = write_by_pillow(cmyk.resize((16, 16)), "JPEG", icc_profile=cmyk_profile(), quality=100)
    yield "JPEG, CMYK, ICC", content, split[[0] * 7 + [8] * 9][:, [0] * 16], 60, ""


ZOO = [*deep_tiffs(), *wide_images(), *transparent_images(), *coloured_images()]


def test_the_zoo_is_large() -> None:
    assert len({name for name, *_ in ZOO}) == len(ZOO) >= 60


@pytest.mark.parametrize(
    ("content", "right", "allowed", "said"), [animal[1:] for animal in ZOO], ids=[animal[0] for animal in ZOO]
)
def test_each_animal(content: bytes, right: np.ndarray | None, allowed: float, said: str) -> None:
    if right is None:
        with pytest.raises(DataError, match=said):
            decode_noting(content, "srgb")
        return
    decoded = decode_noting(content, "srgb")
    right = np.broadcast_to(right, (*right.shape[:2], 3))
    assert decoded.pixels.shape == right.shape
    assert np.abs(decoded.pixels - right).max() <= allowed
    notes = " ".join(decoded.notes)
    assert said in notes and bool(said) == bool(notes)
