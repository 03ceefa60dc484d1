"""Images as data URIs, as long as there is room in the file."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest
from mil_toolkit.features.pixels import Pixels, decode, prepare, resize, saturation_mask
from mil_toolkit.report.gallery import Case

THUMBNAIL, SAMPLE = 104, 160  # pixels
QUALITY = 78
SAMPLES = 3  # of each class
AROUND = 400  # bytes of markup around a picture, its names included
Key = tuple[str, str]  # patient and image, as stored


class Pictures:
    """The images of a cohort as its features have them, but for a mask.

    paths: of images, by patient and name; spec: of the features; digests: SHA-256 of the content that was embedded,
    where it is known: a file that was changed since is not what the model saw, and not shown
    room: bytes that thumbnails may take
    """

    def __init__(self, paths: Mapping[Key, Path], spec: Mapping[str, Any], digests: Mapping[Key, str]):
        self.paths, self.spec, self.digests, self.room = paths, spec, digests, 0
        self.unreadable: set[Key] = set()
        self.changed: set[Key] = set()

    def pixels(self, key: Key, size: int) -> Pixels | None:
        """An image, `size` pixels wide; None where it cannot be read, or is another by now."""
        if key not in self.paths:
            return None
        try:
            content = self.paths[key].read_bytes()
            if key in self.digests and digest(content) != self.digests[key]:
                self.changed.add(key)
                return None
            return prepare(decode(content), size, self.spec.get("crop", 0), "none")
        except (OSError, DataError):
            self.unreadable.add(key)
            return None


class Sample(NamedTuple):
    """An image before and after the saturation mask, as data URIs, and what it is."""

    before: str
    after: str
    words: str


def samples(pictures: Pictures, cases: Sequence[Case], class_names: tuple[str, str]) -> list[Sample]:
    """The images of highest attention of the patients that are right most surely, SAMPLES of each class."""
    found = []
    for label in (0, 1):
        sure = [case for case in reversed(cases) if case.label == label and case.highest]
        for case in sure[:SAMPLES]:
            pixels = pictures.pixels(
                (case.stored, case.highest[0].stored), pictures.spec.get("image_size", 224)
            )
            if pixels is not None:
                before, after = (data_uri(resize(each, SAMPLE)) for each in (pixels, saturation_mask(pixels)))
                words = f"{case.name}, {class_names[label]}, {case.highest[0].name}"
                found.append(Sample(before, after, words))
    return found


def thumbnails_of(pictures: Pictures, cases: Sequence[Case]) -> tuple[dict[Key, str], int]:
    """Thumbnails of the patients' images, in the order of interest until there is no more room.

    Also how many patients have none for want of room.
    """
    found: dict[Key, str] = {}
    without = 0
    for case in cases:
        images = [(case.stored, each.stored) for each in (*case.highest, *case.lowest)]
        fitting = _all_or_none(pictures, images) if pictures.room > 0 else None
        if fitting is not None:
            found |= fitting
        elif images:
            without += 1
    return found, without


def _all_or_none(pictures: Pictures, images: Sequence[Key]) -> dict[Key, str] | None:
    """Thumbnails of those that can be read, or None where there is no room for all; then there is none for others."""
    pixels = {key: pictures.pixels(key, THUMBNAIL) for key in images}
    found = {key: data_uri(each) for key, each in pixels.items() if each is not None}
    pictures.room -= sum(len(each) + AROUND for each in found.values())
    return found if pictures.room >= 0 else None


def data_uri(pixels: Pixels) -> str:
    """Pixels as a JPEG inside the page: nothing of the file they came from but the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
