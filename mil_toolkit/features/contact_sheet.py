"""`write_contact_sheet`: a picture of random and of doubtful images, each beside what the network sees."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from mil_toolkit.backbones.backbones import preprocessing_of
from mil_toolkit.config.extraction import SQUASHED, ExtractionConfig
from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import MilError, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import Output
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.reading import open_input
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.loading import load_batches
from mil_toolkit.features.nucleus import find_nucleus
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.pixels import Window, prepare_noting, resize, sampled_sides
from mil_toolkit.features.plan import Wanted
from mil_toolkit.features.scale import pixels_to_scale
from mil_toolkit.features.sights import DOUBTFUL, SIGHTS, Sight, choose_doubtful, sight_summary
from mil_toolkit.features.spec import for_backbone
from mil_toolkit.features.stain import Pixels

EACH = 64  # random images at most, and as many doubtful ones
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MARK = "mil_toolkit contact sheet"  # in the file, so that a later sheet may replace it
SIDE = 112  # pixels of a picture
_COLUMNS, _GAP, _MARGIN, _LINE = 8, 8, 16, 22
_TILE_WIDTH, _TILE_HEIGHT = 2 * (SIDE + _GAP), SIDE + 24
_NAME_LENGTH = 24  # characters of patient and file that fit below two pictures
_LEGEND = "Left: the image and its window. Right: what the network sees."
_FRAME = (0, 150, 60)  # colour of a window
_HEAD_BYTES = 4096
_QUALITY = 90
_BATCH = 64


class SheetImage(NamedTuple):
    """An image that may be shown: its patient, name and file, and what a search for nuclei found in it.

    microns_per_pixel: of the file, if the image is resampled
    """

    patient: str
    name: str
    path: Path
    sight: Sight
    microns_per_pixel: float | None = None


@dataclass(frozen=True)
class ContactSheet:
    """The results of a search for nuclei, and the number of images that cannot be shown."""

    sights: Mapping[Sight, int]
    left_out: int


def sheet_output(path: Path) -> Output:
    """Return the picture to write; raises UsageError unless its name ends as a PNG or JPEG file."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--contact-sheet {printable(path)} must end with {', '.join(FORMATS)}.")
    return Output(path, "a contact sheet", _is_sheet)


def _is_sheet(path: Path) -> bool:
    with open_input(path) as file:
        return MARK.encode() in file.read(_HEAD_BYTES)


def write_contact_sheet(
    path: Path,
    wanted: Sequence[Wanted],
    config: ExtractionConfig,
    colour: Colour | None,
    threads: int | None = None,
) -> ContactSheet:
    """Draw up to EACH random images and EACH doubtful ones: without a nucleus, with a cut one, with several.

    Every image is read and searched, whatever the preprocessing, but not embedded. The same images give the
    same picture. Images that cannot be read, or are smaller than the crop, are left out.

    config: with `crop` in pixels; what it leaves open is that of the backbone
    colour: see `decode`
    threads: that read and search images, by default one for each core
    """
    config = for_backbone(config, preprocessing_of(config.backbone, config.weights))
    searched = list(_searched(wanted, config, colour, threads or available_cores()))
    images = [image for image in searched if image is not None]
    sights = {sight: sum(image.sight == sight for image in images) for sight in SIGHTS}
    generator = np.random.default_rng(0)
    random = [images[place] for place in sorted(generator.permutation(len(images))[:EACH].tolist())]
    shuffled = (images[place] for place in generator.permutation(len(images)).tolist())
    doubtful = choose_doubtful(((image.sight, image) for image in shuffled), EACH)
    doubts = sum(sights[sight] for sight in DOUBTFUL)
    sections = [_Section(count_of(len(random), "random image"), random)]
    if doubtful:
        sections.append(_Section(f"{len(doubtful)} of {count_of(doubts, 'doubtful image')}", doubtful))
    header = [_settings(config), f"Search for nuclei: {sight_summary(sights)}", _LEGEND]
    publish(path, _encoded(_drawn(header, sections, config, colour), FORMATS[path.suffix.lower()]))
    return ContactSheet(sights, len(searched) - len(images))


def _searched(
    wanted: Sequence[Wanted], config: ExtractionConfig, colour: Colour | None, threads: int
) -> Iterator[SheetImage | None]:
    """Yield every image, None in place of those that cannot be shown."""

    def search(job: tuple[Wanted, str, Path]) -> SheetImage | None:
        patient, name, path = job
        try:
            pixels = decode(read_image_file(path)[0], colour)
            pixels = pixels_to_scale(pixels, patient.microns_per_pixel, config.scale)
            height, width, _ = pixels.shape
            if not config.crop:
                sampled_sides((width, height), config.side, config.sampling or SQUASHED)
        except (OSError, MilError):
            return None
        if min(height, width) < config.crop:
            return None
        sight = find_nucleus(pixels).sight
        return SheetImage(patient.patient_id, name, path, sight, patient.microns_per_pixel)

    jobs = [(patient, name, path) for patient in wanted for name, path in patient.images]
    with ProgressBar(len(jobs), "image", "contact sheet") as bar:
        for batch in load_batches(iter(jobs), search, _BATCH, threads, torch.device("cpu")):
            yield from batch
            bar.update(len(batch))


def _settings(config: ExtractionConfig) -> str:
    size = f" ({config.crop_um:g} micrometres)" if config.crop_um is not None else ""
    whole = config.sampling is None or config.sampling.mode == "squash"
    shown = "the whole image" if whole else "the central square"
    crop = f"--crop {config.crop}{size}" if config.crop else shown
    scale = f", --scale {config.scale:g}" if config.scale is not None else ""
    return f"--preprocess {config.preprocess}, {crop}{scale}"


class _Section(NamedTuple):
    """A part of the sheet: its heading and its images."""

    heading: str
    images: Sequence[SheetImage]

    @property
    def height(self) -> int:
        """In pixels, the heading included."""
        return 2 * _LINE + -(-len(self.images) // _COLUMNS) * _TILE_HEIGHT


def _drawn(
    header: Sequence[str], sections: Sequence[_Section], config: ExtractionConfig, colour: Colour | None
) -> Image.Image:
    height = 2 * _MARGIN + len(header) * _LINE + sum(section.height for section in sections)
    sheet = Image.new("RGB", (2 * _MARGIN + _COLUMNS * _TILE_WIDTH, height), "white")
    for number, line in enumerate(header):
        _write(sheet, (_MARGIN, _MARGIN + number * _LINE), line, 14)
    top = _MARGIN + len(header) * _LINE
    for section in sections:
        _write(sheet, (_MARGIN, top + _LINE), section.heading, 14)
        for place, image in enumerate(section.images):
            row, column = divmod(place, _COLUMNS)
            corner = (_MARGIN + column * _TILE_WIDTH, top + 2 * _LINE + row * _TILE_HEIGHT)
            _draw_tile(sheet, corner, image, config, colour)
        top += section.height
    return sheet


def _draw_tile(
    sheet: Image.Image,
    corner: tuple[int, int],
    image: SheetImage,
    config: ExtractionConfig,
    colour: Colour | None,
) -> None:
    """Draw an image with its window, what the network sees, and a label below."""
    left, top = corner
    name = printable(f"{image.patient}/{image.name}")
    if len(name) > _NAME_LENGTH:
        name = f"{name[: _NAME_LENGTH // 2]}…{name[-_NAME_LENGTH // 2 + 1 :]}"
    _write(sheet, (left, top + SIDE), f"{name}: {SIGHTS[image.sight]}", 10)
    try:
        pixels = decode(read_image_file(image.path)[0], colour)
        pixels = pixels_to_scale(pixels, image.microns_per_pixel, config.scale)
    except (OSError, MilError):  # it has changed since it was searched
        return
    seen = prepare_noting(pixels, config.side, config.crop, config.preprocess, config.sampling)
    sheet.paste(_framed(pixels, seen.window), corner)
    sheet.paste(_small(seen.pixels), (left + SIDE + _GAP // 2, top))


def _framed(pixels: Pixels, window: Window | None) -> Image.Image:
    """Return a small image with the outline of the window."""
    picture, (height, width, _) = _small(pixels), pixels.shape
    if window is not None:
        x, y = SIDE / width, SIDE / height
        box = (x * window.left, y * window.top, x * window.right - 1, y * window.bottom - 1)
        ImageDraw.Draw(picture).rectangle(box, outline=_FRAME)
    return picture


def _small(pixels: Pixels) -> Image.Image:
    return Image.fromarray(resize(pixels, SIDE))


def _write(sheet: Image.Image, corner: tuple[int, int], text: str, size: int) -> None:
    ImageDraw.Draw(sheet).text(corner, text, "black", ImageFont.load_default(size))


def _encoded(sheet: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Software", MARK)
        sheet.save(buffer, kind, pnginfo=info)
    else:
        sheet.save(buffer, kind, quality=_QUALITY, comment=MARK)
    return buffer.getvalue()
