"""A process that decodes images into shared memory. It imports Pillow and numpy, but not torch."""

import mmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.read_prepared import FileFacts, UnreadableFile, read_prepared
from mil_toolkit.features.stain import Pixels

Reply = list[FileFacts | UnreadableFile]


class Paths(NamedTuple):
    """Images to decode into consecutive slots, the first of which has the number `first`.

    resolutions: micrometres per pixel of each file, None where it does not matter
    """

    first: int
    paths: tuple[str, ...]
    resolutions: tuple[float | None, ...]


def map_slots(descriptor: int, image_size: int) -> Pixels:
    """Map a file in memory as slots (n, image_size, image_size, 3) for one image each."""
    mapping = mmap.mmap(descriptor, 0)
    return np.frombuffer(mapping, dtype=np.uint8).reshape(-1, image_size, image_size, 3)


def decode_images(
    config: ExtractionConfig, colour: Colour | None, connection: Connection, descriptor: int
) -> None:
    """Decode the images whose `Paths` arrive, until the other end of the pipe is closed.

    Each is answered by a `Reply` in the order of the paths. The slot of an unreadable image is black.

    descriptor: of the file in memory with the slots
    """
    slots = map_slots(descriptor, config.side)
    while True:
        try:
            task: Paths = connection.recv()
        except (EOFError, ConnectionError):
            return
        files = enumerate(zip(task.paths, task.resolutions, strict=True), task.first)
        reply = [_decode(config, colour, Path(path), scale, slots[n]) for n, (path, scale) in files]
        try:
            connection.send(reply)
        except ConnectionError:  # nobody needs it any more
            return


def _decode(
    config: ExtractionConfig, colour: Colour | None, path: Path, microns_per_pixel: float | None, slot: Pixels
) -> FileFacts | UnreadableFile:
    read = read_prepared(config, colour, path, microns_per_pixel)
    if isinstance(read, UnreadableFile):
        slot[:] = 0
        return read
    slot[:] = read.pixels
    return read.facts
