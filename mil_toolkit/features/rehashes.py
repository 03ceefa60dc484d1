"""`Rehashes`: a file beside the shards with digests of images whose mtime changed but not their content.

The file may be deleted at any time; the images are then hashed again.
"""

import contextlib
import logging
import os
from pathlib import Path

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.files import canonical_json, publish, read_json
from mil_toolkit.core.text import printable

FILE_NAME = "rehashes.json"
Entries = dict[str, dict[str, tuple[int, int, str]]]  # by patient and image name: size, mtime_ns, digest
logger = logging.getLogger(__name__)


class Rehashes:
    """Digests of images by patient, name, size and mtime."""

    def __init__(self, folder: Path):
        self.path = folder / FILE_NAME
        self._entries = _read(self.path)
        self._changed = False

    def get(self, patient_id: str, name: str, size: int, mtime_ns: int) -> bytes | None:
        """Return the digest of the image with exactly this size and mtime, None if there is none."""
        entry = self._entries.get(patient_id, {}).get(name)
        return bytes.fromhex(entry[2]) if entry and tuple(entry[:2]) == (size, mtime_ns) else None

    def remember(self, patient_id: str, name: str, size: int, mtime_ns: int, digest: bytes) -> None:
        """Keep the digest of an image; it replaces the image's earlier entry."""
        self._entries.setdefault(patient_id, {})[name] = (size, mtime_ns, digest.hex())
        self._changed = True

    def save(self) -> None:
        """Write the file if entries were added. Of two processes that write it the later wins, harmlessly.

        A file that cannot be written is not an error: the images are then hashed again.
        """
        if self._changed:
            with contextlib.suppress(MilError):
                publish(self.path, canonical_json(self._entries))
            self._changed = False


def _read(path: Path) -> Entries:
    if not os.path.lexists(path):
        return {}
    try:
        entries: Entries = read_json(path)
        _check(entries)
    except (MilError, AttributeError, TypeError, ValueError):
        logger.warning(
            "%s cannot be read and is ignored: images with a new mtime are hashed again.", printable(path)
        )
        return {}
    return entries


def _check(entries: Entries) -> None:
    """Raise AttributeError, TypeError or ValueError if the entries are not as `Rehashes.save` writes them."""
    for names in entries.values():
        for size, mtime_ns, digest in names.values():
            integers = isinstance(size, int) and isinstance(mtime_ns, int)
            if not integers or len(bytes.fromhex(digest)) != 32:
                raise ValueError
