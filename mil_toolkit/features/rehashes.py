"""`Rehashes`: a disposable file beside the shards. Without it, touched images are hashed again, no more."""

import logging
from pathlib import Path

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import canonical_json, publish, read_json

FILE_NAME = "rehashes.json"
logger = logging.getLogger(__name__)


class Rehashes:
    """Digests of images by patient, name, size and mtime."""

    def __init__(self, folder: Path):
        self.path = folder / FILE_NAME
        self._entries: dict[str, dict[str, tuple[int, int, str]]] = _read(self.path)
        self._changed = False

    def get(self, patient_id: str, name: str, size: int, mtime_ns: int) -> bytes | None:
        """The digest that was remembered for exactly this, if any."""
        found = self._entries.get(patient_id, {}).get(name)
        return bytes.fromhex(found[2]) if found and tuple(found[:2]) == (size, mtime_ns) else None

    def remember(self, patient_id: str, name: str, size: int, mtime_ns: int, digest: bytes) -> None:
        """Keep a digest; one entry for each image."""
        self._entries.setdefault(patient_id, {})[name] = (size, mtime_ns, digest.hex())
        self._changed = True

    def save(self) -> None:
        """Write the file where there is something new. Of two writers at once the later wins: no harm done."""
        if self._changed:
            publish(self.path, canonical_json(self._entries))
            self._changed = False


def _read(path: Path) -> dict[str, dict[str, tuple[int, int, str]]]:
    if not path.exists():
        return {}
    try:
        entries: dict[str, dict[str, tuple[int, int, str]]] = read_json(path)
        _check(entries)
    except (DataError, AttributeError, TypeError, ValueError):
        logger.warning("%s is not readable and left aside: touched images are hashed again.", path)
        return {}
    return entries


def _check(entries: dict[str, dict[str, tuple[int, int, str]]]) -> None:
    for names in entries.values():
        for size, mtime_ns, content in names.values():
            if (
                not isinstance(size, int)
                or not isinstance(mtime_ns, int)
                or len(bytes.fromhex(content)) != 32
            ):
                raise ValueError
