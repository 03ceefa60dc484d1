"""Images as data URIs, within the size that the file may have."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mil_toolkit.config.extraction import CELL_NAMES, Sampling
from mil_toolkit.core.errors import DataError, MilError
from mil_toolkit.core.files import digest
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.pixels import prepare_noting, resize, saturation_mask
from mil_toolkit.features.scale import pixels_to_scale
from mil_toolkit.features.sights import Sight
from mil_toolkit.features.stain import Pixels
from mil_toolkit.report.contents import Key
from mil_toolkit.report.gallery import Case
from mil_toolkit.report.spotlight import spotlight

if TYPE_CHECKING:
    from mil_toolkit.bundle.saliency import SalientImage  # imports torch

THUMBNAIL, SAMPLE = 104, 160  # pixels
QUALITY = 78  # of the JPEGs
SAMPLES = 3  # of each class
_IMAGE_LIMIT = 1024 * MEBIBYTE  # of the file of an image
MARKUP = 400  # bytes of markup for each picture, its names included


class Pictures:
    """The images of a cohort, cropped as for its features; `pixels` are without a mask.

    digests: SHA-256 of the content that was embedded, where known; files that have changed since are not
    shown
    crop, size, colour, preprocess, sampling: of the features, see `prepare` and `decode`
    scale: micrometres per pixel to which images are resampled, None if they are not
    scales: micrometres per pixel of the files, by patient
    unreadable, changed: images that `pixels` has met and that cannot be shown
    sights: what a search for nuclei found in the images that `pixels` returned; empty if they are not
        searched
    """

    def __init__(
        self,
        paths: Mapping[Key, Path],
        digests: Mapping[Key, str],
        crop: int,
        size: int,
        colour: Colour | None = None,
        preprocess: str = "none",
        scale: float | None = None,
        scales: Mapping[str, float] | None = None,
        sampling: Sampling | None = None,
    ):
        self.paths, self.digests, self.crop, self.size, self.colour = paths, digests, crop, size, colour
        self.preprocess, self.shows_cells = preprocess, preprocess in CELL_NAMES
        self.shows_windows = bool(crop)
        self.scale, self.scales, self.sampling = scale, scales or {}, sampling
        self.sights: dict[Key, Sight] = {}
        self.unreadable: set[Key] = set()
        self.changed: set[Key] = set()

    def pixels(self, key: Key, size: int) -> Pixels | None:
        """Return an image, `size` pixels wide; None where it cannot be read or has changed."""
        original = self.original(key)
        preprocess = "cell-crop" if self.shows_cells else "none"
        return None if original is None else self.prepared(key, original, size, preprocess)

    def prepared(self, key: Key, original: Pixels, size: int, preprocess: str) -> Pixels | None:
        """Return a decoded image after this preprocessing, `size` pixels wide; None if it is too small."""
        try:
            resampled = pixels_to_scale(original, self.scales.get(key[0]), self.scale)
            image = prepare_noting(resampled, size, self.crop, preprocess, self.sampling)
        except DataError:  # the image is smaller than the crop
            self.unreadable.add(key)
            return None
        if image.sight is not None:
            self.sights[key] = image.sight
        return image.pixels

    def original(self, key: Key) -> Pixels | None:
        """Return an image as it was decoded; None where it cannot be read or has changed."""
        if key not in self.paths:
            return None
        try:
            content = read_input(self.paths[key], _IMAGE_LIMIT)
            if key in self.digests and digest(content) != self.digests[key]:
                self.changed.add(key)
                return None
            return decode(content, self.colour)
        except (OSError, MilError):
            self.unreadable.add(key)
            return None


@dataclass(frozen=True)
class Sample:
    """An image before and after the preprocessing, as data URIs, and its description."""

    before: str
    after: str
    description: str


@dataclass(frozen=True)
class ViewSamples:
    """Sample images as one of several views shows them, with the view's name and what is to be seen."""

    name: str
    samples: list[Sample]
    note: str


def samples_of(
    pictures: Pictures, cases: Sequence[Case], class_names: tuple[str, ...], as_seen: bool = False
) -> list[Sample]:
    """Return the images of highest attention of the SAMPLES most confident correct patients of each class.

    Without classes, those of the patients with the smallest errors.

    The preprocessing is that of the features or, if they show whole images and not `as_seen`, the saturation
    mask.
    """
    pairs, shown = [], [case for case in reversed(cases) if case.shown_images]
    groups = {f"{name}, ": [case for case in shown if case.label == n] for n, name in enumerate(class_names)}
    for name, confident in (groups or {"": shown}).items():
        for case in confident[:SAMPLES]:
            image = case.shown_images[0]
            description = f"{case.name}, {name}{image.name}"
            pairs.append(sample_of(pictures, (case.stored, image.stored), description, as_seen))
    return [sample for sample in pairs if sample is not None]


def sample_of(pictures: Pictures, key: Key, description: str, as_seen: bool = False) -> Sample | None:
    """Return one image before and after the preprocessing, see `samples_of`; None if it cannot be shown."""
    pair = _before_and_after(pictures, key, as_seen)
    if pair is None:
        return None
    before, after = (data_uri(resize(pixels, SAMPLE)) for pixels in pair)
    return Sample(before, after, description)


def _before_and_after(pictures: Pictures, key: Key, as_seen: bool) -> tuple[Pixels, Pixels] | None:
    original = pictures.original(key)
    if original is None:
        return None
    as_seen = as_seen or pictures.shows_windows
    preprocess = pictures.preprocess if as_seen else "none"
    pixels = pictures.prepared(key, original, pictures.size, preprocess)
    if pixels is None:
        return None
    return (original, pixels) if as_seen else (pixels, saturation_mask(pixels))


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails as data URIs, and the number of patients whose images did not fit into the file.

    marked: the same images with the places that count, see `spotlight`
    """

    uris: Mapping[Key, str]
    left_out: int
    marked: Mapping[Key, str] = field(default_factory=dict)


def thumbnails_of(
    pictures: Pictures,
    cases: Iterable[Case],
    room: int,
    maps: "Mapping[Key, SalientImage] | None" = None,
    ended: Callable[[], object] = lambda: None,
) -> Thumbnails:
    """Return thumbnails of the patients' images, in the order of the cases until `room` bytes are full.

    maps: of some images, which belong to what the network of one view sees; ended: called after each case
    """
    uris: dict[Key, str] = {}
    marked: dict[Key, str] = {}
    left_out = 0
    for case in cases:
        keys = [(case.stored, image.stored) for image in case.shown_images]
        pixels = _thumbnails(pictures, keys) if room > 0 else {}
        ended()
        own = {key: data_uri(image) for key, image in pixels.items()}
        with_maps = {
            key: data_uri(marked_thumbnail(maps[key], len(image)))
            for key, image in pixels.items()
            if maps and key in maps
        }
        size = sum(len(uri) + MARKUP for uri in (*own.values(), *with_maps.values()))
        if room > 0 and size <= room:
            uris |= own
            marked |= with_maps
            room -= size
        else:
            left_out += bool(keys)
            room = 0  # no picture of a later case, even of one that would fit
    return Thumbnails(uris, left_out, marked)


def marked_thumbnail(image: "SalientImage", side: int) -> Pixels:
    """Return what the network sees of an image, (side, side, 3), with the places that count."""
    return spotlight(resize(image.pixels, side), image.map)


def _thumbnails(pictures: Pictures, keys: Iterable[Key]) -> dict[Key, Pixels]:
    pixels = {key: pictures.pixels(key, THUMBNAIL) for key in keys}
    return {key: image for key, image in pixels.items() if image is not None}


def data_uri(pixels: Pixels) -> str:
    """Return pixels as a JPEG data URI, without any metadata of the file that they came from."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
