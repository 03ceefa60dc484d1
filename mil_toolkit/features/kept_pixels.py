"""`KeptPixels`: the pixels of image files that are read again and again, kept in memory up to a limit."""

import os
import threading
from pathlib import Path

import numpy as np

from mil_toolkit.core.file_state import FileState, is_settled
from mil_toolkit.core.memory import available_memory
from mil_toolkit.core.reading import MEBIBYTE
from mil_toolkit.features.stain import Pixels

MOST_BYTES = 2048 * MEBIBYTE  # 14,000 images of 224 x 224 pixels


class KeptPixels:
    """Pixels of image files as long as these do not change; several threads may use it.

    limit: of the bytes that are kept, by default MOST_BYTES or a quarter of the memory that is free. Files
        that are read once the limit is reached are not kept.
    """

    def __init__(self, limit: int | None = None):
        self._left = min(MOST_BYTES, available_memory() // 4) if limit is None else limit
        self._kept: dict[Path, tuple[FileState, Pixels]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> Pixels | None:
        """Return the pixels of a file; None if they are not kept or the file has changed or vanished."""
        kept = self._kept.get(path)
        if kept is None:
            return None
        state, pixels = kept
        try:
            return pixels if FileState.of(path.stat()) == state else None
        except OSError:
            return None

    def keep(self, path: Path, status: os.stat_result, pixels: Pixels) -> None:
        """Keep the pixels of a file whose status was this when it was opened, if there is room for them.

        A file that was written to a moment ago is not kept, since a change might not be noticed.
        """
        if not is_settled(max(status.st_mtime_ns, status.st_ctime_ns)):
            return
        with self._lock:
            if path in self._kept or pixels.nbytes > self._left:
                return
            self._left -= pixels.nbytes
            self._kept[path] = FileState.of(status), _without_larger_array(pixels)


def _without_larger_array(pixels: Pixels) -> Pixels:
    """Return a copy of pixels that are a part of a larger array, which they would keep in memory."""
    whole = pixels.base
    is_part = isinstance(whole, np.ndarray) and whole.nbytes > pixels.nbytes
    return pixels.copy() if is_part else pixels
