# Floor 4.2: thumbnails inside the page: decoded, cropped as the network saw them, encoded anew without EXIF.
"""`Pictures`: images as data URIs, as long as there is room in the file."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from mil_toolkit.errors import DataError
from mil_toolkit.images import Pixels, centre_crop, decode, resize

THUMBNAIL, SAMPLE = 104, 160  # pixels
QUALITY = 78


class Pictures:
    """The thumbnails of a report.

    paths: of images, by patient and name; crop: of the study's features; room: bytes of markup they may take
    """

    def __init__(self, paths: Mapping[tuple[str, str], Path], crop: int, room: int):
        self.paths, self.crop, self.room = paths, crop, room
        self.unreadable = 0

    def pixels(self, patient: str, image: str, size: int) -> Pixels | None:
        """An image as the network saw it before any mask, `size` pixels wide; None where it cannot be read."""
        path = self.paths.get((patient, image))
        if path is None:
            return None
        try:
            whole = decode(path.read_bytes())
            return resize(centre_crop(whole, self.crop) if self.crop else whole, size)
        except (OSError, DataError):
            self.unreadable += 1
            return None

    def all_or_none(self, images: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Thumbnails of these images, or of none of them where there is no room for all."""
        found = {}
        for each in images:
            pixels = self.pixels(*each, THUMBNAIL)
            if pixels is not None:
                found[each] = data_uri(pixels)
        size = sum(map(len, found.values()))
        if size > self.room:
            self.room = 0  # who comes later is of less interest
            return {}
        self.room -= size
        return found


def data_uri(pixels: Pixels) -> str:
    """Pixels as a JPEG inside the page: nothing of the file they came from but the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
