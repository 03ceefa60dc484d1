"""Any image that a laboratory has: decoded to the right pixels, or refused with the reason."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from support.drawn_smears import Ellipse, draw_smear

from mil_toolkit.config.extraction import PREPROCESS_NAMES, Sampling
from mil_toolkit.core.errors import DataError
from mil_toolkit.features import nucleus as nucleus_module
from mil_toolkit.features import pixels as images
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.nucleus import Nucleus, Search
from mil_toolkit.features.pixels import (
    centre_crop,
    prepare,
    prepare_noting,
    resize,
    saturation_mask,
)
from mil_toolkit.features.stain import otsu_threshold

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats_come_back_as_they_were(kind: str, options: dict[str, object]) -> None:
    """Pixel by pixel."""
    assert np.array_equal(decode(encode(Image.fromarray(RGB), kind, **options)), RGB)


def test_jpeg_is_decoded_as_by_pillow() -> None:
    """Colour, and grey on three channels."""
    content = encode(Image.fromarray(RGB), "JPEG")
    assert np.array_equal(decode(content), np.asarray(Image.open(io.BytesIO(content))))
    grey = encode(Image.fromarray(RGB[:, :, 0]), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(grey)))
    assert all(np.array_equal(decode(grey)[:, :, channel], expected) for channel in range(3))


def test_grey_bilevel_and_palette() -> None:
    """Each mode against its definition."""
    grey = RGB[:, :, 0]
    assert np.array_equal(decode(encode(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=2))
    bits = grey > 127
    assert np.array_equal(decode(encode(Image.fromarray(bits), "TIFF"))[:, :, 1], np.where(bits, 255, 0))
    palette = Image.fromarray(RGB).quantize(200)
    assert np.array_equal(decode(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_blended_with_white(kind: str) -> None:
    """Opaque pixels stay, transparent ones become white, and half-transparent ones lie between."""
    alpha = np.zeros(RGB.shape[:2], dtype=np.uint8)
    alpha[:, :4], alpha[:, 4:8] = 255, 128
    layered = Image.fromarray(np.dstack([RGB, alpha]))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = decode(encode(layered, kind, **options))
    assert np.array_equal(pixels[:, :4], RGB[:, :4])
    assert (pixels[:, 8:] == 255).all()
    half = RGB[:, 4:8] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[:, 4:8] - half).max() <= 1


def test_transparent_grey_and_palette_images_are_blended_with_white() -> None:
    """Also where the transparency is one colour of a palette."""
    alpha = np.zeros(RGB.shape[:2], dtype=np.uint8)
    alpha[0, 0] = 255
    layer = Image.fromarray(np.dstack([RGB[:, :, 0], alpha]))
    pixels = decode(encode(layer, "PNG"))
    assert layer.mode == "LA" and (pixels[0, 0] == RGB[0, 0, 0]).all()
    assert (pixels[0, 1:] == 255).all() and (pixels[1:] == 255).all()
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    transparent = decode(encode(palette, "PNG", transparency=1))
    assert (transparent[0, 0] == 0).all() and (transparent[1] == 255).all()
    assert (decode(encode(palette, "PNG", transparency=0))[1] == (10, 20, 30)).all()


def test_cmyk() -> None:
    """No ink is white, and full black ink is black."""
    inks = np.zeros((2, 3, 4), dtype=np.uint8)
    inks[1, :, 3] = 255
    for kind in ("TIFF", "JPEG"):
        pixels = decode(encode(_cmyk(inks), kind))
        assert (pixels[0] > 250).all() and (pixels[1] < 5).all()


def _cmyk(inks: np.ndarray) -> Image.Image:
    return Image.frombytes("CMYK", (inks.shape[1], inks.shape[0]), inks.tobytes())


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str, mode: str) -> None:
    """Every value, against exact division."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    bytes_ = values.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    pixels = decode(encode(Image.frombytes(mode, (256, 256), bytes_), kind))
    assert np.array_equal(pixels[:, :, 0], np.round(values / 257))
    assert (pixels == pixels[:, :, :1]).all()


def test_sixteen_bit_colour_is_scaled() -> None:
    """A PNG with 16 bits per channel, encoded here because Pillow cannot write one."""
    values = np.linspace(0, 65535, 4 * 5 * 3).astype(">u2").reshape(4, 5, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    content = _png(5, 4, depth=16, colour=2, data=zlib.compress(rows))
    assert np.abs(decode(content) - values / 257).max() <= 1


def _png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, -1)[:, ::-1][::-1, ::-1],
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """All eight orientations, against numpy."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encode(Image.fromarray(RGB), kind, exif=exif, **options))
    assert np.array_equal(pixels, TURNS[orientation](RGB))


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {})]
)
def test_animated_files_are_refused(kind: str, options: dict[str, object]) -> None:
    """An instance is one picture. (GIF is not supported at all.)"""
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(DataError, match="not a JPEG" if kind == "GIF" else "several frames"):
        decode(content)


def test_a_phones_picture_with_a_preview_is_its_first_image() -> None:
    """MPO is a JPEG with further images behind it."""
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    content = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(content), decode(encode(frames[0], "JPEG")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not a JPEG, PNG, TIFF, BMP or WEBP image"),
        (b"patient,path\n", "not a JPEG"),
        (encode(Image.fromarray(RGB[:, :, 0].astype(np.float32)), "TIFF"), "32-bit values"),
        (encode(Image.fromarray(RGB[:, :, 0].astype(np.int32)), "TIFF"), "32-bit values"),
    ],
)
def test_files_that_are_not_images_are_refused(content: bytes, reason: str) -> None:
    """With the reason."""
    with pytest.raises(DataError, match=reason):
        decode(content)


@pytest.mark.parametrize("side", [8_200, 12_000, 40_000])
def test_decompression_bombs_are_refused_by_their_header(side: int) -> None:
    """The file contains no pixels, so only its header can be refused; also if warnings are errors."""
    content = _png(side, side, depth=8, colour=2, data=zlib.compress(b""))
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(DataError, match="more than the 67,108,864"):
                decode(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_every_truncation_is_refused_or_harmless(kind: str) -> None:
    """Cut after every byte: an error, or all pixels if only trailing bytes are missing."""
    content = encode(Image.fromarray(RGB), kind)
    whole, refused = decode(content), 0
    for end in range(len(content)):
        try:
            assert np.array_equal(decode(content[:end]), whole)
        except DataError:
            refused += 1
    assert refused >= len(content) // 3


@settings(max_examples=200)
@given(st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP"]), st.data())
def test_corrupt_bytes_raise_only_data_errors(kind: str, data: st.DataObject) -> None:
    """Up to eight bytes of a valid file are replaced by any others."""
    content = bytearray(encode(Image.fromarray(RGB), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = decode(bytes(content))
        except DataError:
            return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_an_image_that_is_too_long_for_a_square_is_refused_before_it_is_resized() -> None:
    sampling = Sampling("bicubic", "centre", 0.875)
    for size in ((1, 60_000), (60_000, 1)):
        with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels are too long for a square of 224"):
            prepare(Image.new("RGB", size), 224, 0, "none", sampling)
    assert prepare(Image.new("RGB", (1, 900)), 224, 0, "none", sampling).shape == (224, 224, 3)


def test_centre_crop() -> None:
    """The margins differ by at most one pixel, and smaller images are refused."""
    assert np.array_equal(centre_crop(RGB, 5), RGB[2:7, 4:9])
    with pytest.raises(DataError, match="13 x 9 pixels are fewer than a crop of 10"):
        centre_crop(RGB, 10)


def test_resize_averages_where_it_shrinks() -> None:
    """A checkerboard of single pixels becomes grey; skipping pixels would make it black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = resize(np.stack([board.astype(np.uint8)] * 3, axis=2), 16)
    assert small.shape == (16, 16, 3) and np.abs(small.astype(int) - 127).max() <= 2


def test_resize_keeps_an_image_of_the_right_size() -> None:
    """Pixel by pixel, so that the usual 224 x 224 images are untouched."""
    square = RGB[:9, :9]
    assert np.array_equal(resize(square, 9), square)


@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 255)))
def test_otsu_maximises_between_class_variance(values: np.ndarray) -> None:
    """Against the definition, at every threshold."""

    def variance(threshold: int) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return low.size * high.size * (low.mean() - high.mean()) ** 2 if low.size and high.size else 0.0

    assert variance(otsu_threshold(values)) == pytest.approx(max(variance(t) for t in range(256)))


def test_saturation_mask_keeps_stained_pixels_and_blackens_the_rest() -> None:
    """A violet nucleus on a pale background."""
    smear = np.full((8, 8, 3), (225, 215, 220), dtype=np.uint8)
    smear[2:5, 3:6] = (90, 20, 140)
    masked = saturation_mask(smear)
    assert np.array_equal(masked[2:5, 3:6], smear[2:5, 3:6])
    assert masked.sum() == smear[2:5, 3:6].sum()
    assert np.array_equal(saturation_mask(smear, threshold=0), smear)
    assert not saturation_mask(smear, threshold=255).any()
    assert not saturation_mask(np.full_like(smear, 77)).any(), "grey has no saturation"


def test_prepare_crops_resizes_and_masks_in_this_order() -> None:
    """Each step against its function."""
    expected = saturation_mask(resize(centre_crop(RGB, 7), 32))
    assert np.array_equal(prepare(RGB, 32, 7, "saturation-mask"), expected)
    assert np.array_equal(prepare(RGB, 32, 0, "none"), resize(RGB, 32))


@pytest.mark.parametrize(("size", "crop"), [(9, 0), (13, 0), (32, 0), (5, 7), (7, 7), (32, 5), (4, 9)])
@pytest.mark.parametrize("preprocess", ["none", "saturation-mask"])
def test_an_image_gives_the_same_bits_as_its_array(size: int, crop: int, preprocess: str) -> None:
    """Cropping and resizing an image of Pillow, against the same on arrays; smaller and larger sizes."""
    shown = resize(centre_crop(RGB, crop) if crop else RGB, size)
    expected = saturation_mask(shown) if preprocess == "saturation-mask" else shown
    assert np.array_equal(prepare(Image.fromarray(RGB), size, crop, preprocess), expected)


@pytest.mark.parametrize("preprocess", ["cell-crop", "cell-mask"])
def test_a_cell_of_an_image_is_that_of_its_array(preprocess: str) -> None:
    image, array = (prepare_noting(smear, 32, 80, preprocess) for smear in (Image.fromarray(SMEAR), SMEAR))
    assert np.array_equal(image.pixels, array.pixels) and image[1:] == array[1:]


def test_preprocess_names_are_those_of_the_command() -> None:
    """The table and the command line have the same names."""
    assert tuple(images.PREPROCESSES) == PREPROCESS_NAMES


def test_the_orientations_of_the_oracle_are_pillows() -> None:
    """Checks the oracle above."""
    for orientation, turn in TURNS.items():
        image = Image.fromarray(RGB)
        image.getexif()[0x0112] = orientation
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), turn(RGB))


SMEAR = draw_smear(np.random.default_rng(0), [Ellipse(70, 90, 16, 14)])
EMPTY = draw_smear(np.random.default_rng(1), [])


def test_a_cell_crop_is_the_window_around_the_nucleus() -> None:
    """Its centre is that of the nucleus, and its pixels are those of the image."""
    image = prepare_noting(SMEAR, 64, 64, "cell-crop")
    assert image.window is not None and image.sight == "one"
    assert abs(image.window.top + 32 - 70) <= 2 and abs(image.window.left + 32 - 90) <= 2
    assert np.array_equal(image.pixels, image.window.of(SMEAR))
    assert np.array_equal(prepare(SMEAR, 224, 64, "cell-crop"), resize(image.window.of(SMEAR), 224))


def test_a_cell_mask_keeps_the_nucleus_and_a_rim() -> None:
    """Everything else is black; what is kept is not changed."""
    crop = prepare(SMEAR, 64, 64, "cell-crop").astype(int)
    masked = prepare(SMEAR, 64, 64, "cell-mask")
    kept = masked.any(2)
    assert np.array_equal(masked[kept], crop[kept])
    assert Ellipse(32, 32, 14, 12, 0).mask((64, 64))[~kept].sum() == 0
    assert not kept[~Ellipse(32, 32, 26, 24).mask((64, 64))].any()
    area = np.pi * 16 * 14
    assert 1.3 * area < kept.sum() < 2.2 * area, "the rim is 0.3 radii wide"


@pytest.mark.parametrize("preprocess", ["cell-crop", "cell-mask"])
def test_without_a_nucleus_the_centre_is_shown(preprocess: str) -> None:
    """Nothing is blackened then."""
    image = prepare_noting(EMPTY, 32, 61, preprocess)
    assert image.sight == "none"
    assert np.array_equal(image.pixels, resize(centre_crop(EMPTY, 61), 32))


@pytest.mark.parametrize("preprocess", ["cell-crop", "cell-mask"])
@pytest.mark.parametrize(
    ("place", "corner"), [((4, 80), (0, 40)), ((156, 80), (80, 40)), ((80, 3), (40, 0)), ((4, 157), (0, 80))]
)
def test_a_window_at_the_border_is_moved_inside(
    place: tuple[int, int], corner: tuple[int, int], preprocess: str
) -> None:
    """Nothing is padded."""
    smear = draw_smear(np.random.default_rng(2), [Ellipse(*place, 18, 17)])
    image = prepare_noting(smear, 32, 80, preprocess)
    assert image.window is not None and image.sight == "cut" and image.pixels.any()
    assert np.abs(np.subtract(image.window[:2], corner)).max() <= 2
    assert min(image.window[:2]) >= 0 and max(image.window[:2]) + 80 <= 160


@pytest.mark.parametrize("preprocess", PREPROCESS_NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (30, 200), (79, 79)])
def test_images_smaller_than_the_window_are_refused(shape: tuple[int, int], preprocess: str) -> None:
    """As by the centre crop."""
    with pytest.raises(DataError, match=r"pixels are fewer than a crop of 80\.$"):
        prepare(np.zeros((*shape, 3), np.uint8), 32, 80, preprocess)


@pytest.mark.parametrize("preprocess", ["cell-crop", "cell-mask"])
def test_a_window_of_the_whole_image_is_the_image(preprocess: str) -> None:
    """Wherever the nucleus is; also of one pixel."""
    assert prepare_noting(SMEAR, 32, 160, preprocess).window == (0, 0, 160)
    assert np.array_equal(prepare(SMEAR, 160, 160, "cell-crop"), SMEAR)
    assert prepare(np.full((1, 1, 3), 9, np.uint8), 32, 1, preprocess).shape == (32, 32, 3)


def test_masks_of_large_images_fit_their_pixels() -> None:
    """The search sees a smaller image, whose mask is enlarged; 701 is not a multiple of the factor."""
    truth = Ellipse(340, 360, 70, 66)
    smear = draw_smear(np.random.default_rng(3), [truth], (701, 701))
    masked = prepare(smear, 701, 701, "cell-mask")
    assert masked[truth.mask((701, 701))].any(1).mean() > 0.999
    assert not masked[~truth.grown(40).mask((701, 701))].any()


def _found(monkeypatch: pytest.MonkeyPatch, mask: np.ndarray) -> Nucleus:
    """Let the search find a nucleus of this shape at the centre of the image."""
    nucleus = Nucleus(mask.shape[0] / 2, mask.shape[1] / 2, mask)
    monkeypatch.setattr(nucleus_module, "find_nucleus", lambda _: Search(nucleus, "one"))
    return nucleus


def test_the_rim_of_a_mask_surrounds_the_whole_nucleus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the part outside the window, against the definition."""
    mask = np.zeros((90, 100), bool)
    mask[20:32, 20:80] = mask[44:46, 49:51] = True
    nucleus = _found(monkeypatch, mask)
    pixels = np.full((*mask.shape, 3), 200, np.uint8)
    image = prepare_noting(pixels, 24, 24, "cell-mask")
    assert image.window == (33, 38, 24)
    gaps = np.argwhere(np.ones_like(mask))[:, None] - np.argwhere(mask)
    near = (np.hypot(gaps[..., 0], gaps[..., 1]).min(1) <= 0.3 * nucleus.radius).reshape(mask.shape)
    assert np.array_equal(image.pixels.any(2), image.window.of(near))
    assert image.pixels[0].any() and not image.pixels[5].any(), "the rim of a part outside the window"


def test_a_window_within_the_gap_of_a_nucleus_is_not_blackened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a ring or a horseshoe, whose centre of mass is outside it."""
    distances = np.hypot(*(np.indices((90, 90)) - 44.5))
    _found(monkeypatch, (distances > 25) & (distances < 35))
    image = prepare_noting(SMEAR[:90, :90], 20, 20, "cell-mask")
    assert np.array_equal(image.pixels, SMEAR[35:55, 35:55])


@pytest.mark.parametrize("mode", ["squash", "center"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9, 0.875, 0.85])
@pytest.mark.parametrize("shape", [(40, 48), (48, 40), (33, 33), (301, 222), (224, 224)])
def test_images_are_sampled_as_by_timm(
    mode: str, interpolation: str, crop_pct: float, shape: tuple[int, int]
) -> None:
    """Bit by bit, before normalisation; for odd sizes and both orientations."""
    transforms = pytest.importorskip("timm.data")
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for size in (32, 33):
        transform = transforms.create_transform(
            (3, size, size), interpolation=interpolation, crop_pct=crop_pct, crop_mode=mode
        )
        steps = [step for step in transform.transforms if type(step).__name__ in ("Resize", "CenterCrop")]
        image = Image.fromarray(pixels)
        for step in steps:
            image = step(image)
        sampling = Sampling(interpolation, "squash" if mode == "squash" else "centre", crop_pct)
        assert np.array_equal(np.asarray(image), prepare(pixels, size, 0, "none", sampling))


def test_the_default_sampling_is_the_whole_image_resized_bilinearly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
    for sampling in (None, Sampling()):
        assert np.array_equal(prepare(pixels, 32, 0, "none", sampling), expected)


@pytest.mark.parametrize(
    ("shape", "sampling", "window"),
    [
        ((40, 48), Sampling(), None),
        ((40, 40), Sampling(mode="centre"), None),
        ((40, 48), Sampling(mode="centre"), images.Window(0, 4, 40)),
        ((40, 48), Sampling("bicubic", "centre", 0.875), images.Window(2, 6, 36)),
    ],
)
def test_the_window_of_a_sampling_is_what_is_shown(
    shape: tuple[int, int], sampling: Sampling, window: images.Window | None
) -> None:
    """Up to the rounding of the resized image."""
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    assert prepare_noting(pixels, 32, 0, "none", sampling).window == window


def test_a_window_of_crop_is_resized_with_the_interpolation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    shown = Image.fromarray(centre_crop(pixels, 20)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(prepare(pixels, 32, 20, "none", Sampling("bicubic")), np.asarray(shown))
    masked = prepare(pixels, 32, 20, "saturation-mask", Sampling("bicubic"))
    assert np.array_equal(masked, saturation_mask(np.asarray(shown)))
