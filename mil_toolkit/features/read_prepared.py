"""`read_prepared`: an image file as a backbone sees it.

Threads and decoder processes both call it, so an image gives the same bits in either. It imports neither
torch nor h5py, so that a decoder process starts quickly and stays small.
"""

from pathlib import Path
from typing import NamedTuple

from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.file_state import known_mtime
from mil_toolkit.core.files import digest
from mil_toolkit.core.text import printable
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.decoding import decode_noting
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.orientations import symmetries_of
from mil_toolkit.features.pixels import prepare_noting
from mil_toolkit.features.scale import to_scale
from mil_toolkit.features.sights import Sight
from mil_toolkit.features.stain import Pixels


class FileFacts(NamedTuple):
    """What is known of an image file that was read, apart from its pixels.

    digest: SHA-256 of its content
    size: in bytes; mtime_ns: see `known_mtime`; both as of when the file was opened
    notes: see `Decoded`
    sight: what the search for a nucleus found, None if there was none
    symmetries: the orientations in which the image is embedded, see `symmetries_of`
    """

    digest: bytes
    size: int
    mtime_ns: int
    notes: tuple[str, ...]
    sight: Sight | None
    symmetries: tuple[int, ...]


class PreparedFile(NamedTuple):
    """An image file that was read; pixels (image_size, image_size, 3) uint8."""

    facts: FileFacts
    pixels: Pixels


class UnreadableFile(NamedTuple):
    """The reason why an image file cannot be read or decoded."""

    reason: str


def read_prepared(
    config: ExtractionConfig, colour: Colour | None, path: Path, microns_per_pixel: float | None = None
) -> PreparedFile | UnreadableFile:
    """Read, decode and preprocess an image.

    colour: whether colour profiles are applied, see `decode`
    microns_per_pixel: of the file, if it is to be resampled to `config.scale`
    """
    try:
        content, status = read_image_file(path)
        decoded = decode_noting(content, colour)
        image = to_scale(decoded.image, microns_per_pixel, config.scale)
        prepared = prepare_noting(image, config.side, config.crop, config.preprocess, config.sampling)
    except (OSError, MilError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return UnreadableFile(str(reason).removeprefix(f"{printable(path)} "))
    content_digest = bytes.fromhex(digest(content))
    mtime_ns = known_mtime(status.st_mtime_ns)
    symmetries = symmetries_of(content_digest, config.augment)
    facts = FileFacts(content_digest, status.st_size, mtime_ns, decoded.notes, prepared.sight, symmetries)
    return PreparedFile(facts, prepared.pixels)
