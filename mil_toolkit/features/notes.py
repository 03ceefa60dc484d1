"""`Notes`: what the decoder had to say about images that were embedded all the same."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mil_toolkit.core.text import each_or_most, printable

logger = logging.getLogger(__name__)


class Notes:
    """Lines about image files, each said once, even if an image is read again."""

    def __init__(self) -> None:
        self._paths: dict[str, dict[str, None]] = defaultdict(dict)

    def add(self, path: Path, notes: Iterable[str]) -> None:
        """Record what was noted about an image."""
        for note in notes:
            self._paths[note][printable(path)] = None

    def log(self, images: int) -> None:
        """Warn of every file, or, once for all, of what most of the `images` have in common."""
        for note, paths in self._paths.items():
            lines = (f"{path}: {note}" for path in paths)
            for line in each_or_most([*paths], images, lines, f"images: {note} They are"):
                logger.warning("%s", line)
        self._paths.clear()
