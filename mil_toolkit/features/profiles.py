"""`ColourChoice`: whether colour profiles are applied, without opening images that were looked at before.

A file beside the shards remembers which stored bags were looked at. It may be deleted at any time; the images
are then looked at again.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.file_state import is_settled
from mil_toolkit.core.files import canonical_json, publish
from mil_toolkit.core.records import read_record_if_any
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.colour import Colour, needs_conversion
from mil_toolkit.features.opening import DECODER
from mil_toolkit.features.plan import Wanted
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.shards import StoredBag

FILE_NAME = "profiles.json"
COLOURS: tuple[Colour | None, ...] = ("srgb", None)
_Image = tuple[str, str]  # patient and image name
_Stat = tuple[int, int]  # size and mtime_ns
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Content:
    """The content of the file; decoder: that read the profiles, since another one may judge otherwise."""

    decoder: str
    rows: dict[str, int | None]


class Profiles:
    """Which images of stored bags have a colour profile that is not sRGB.

    For each bag, by its digest in hexadecimal, the row of one image that has such a profile; None if no image
    of the bag has one.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE_NAME
        self._rows = _read(self.path)
        self._changed = False

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __contains__(self, bag: StoredBag) -> bool:
        return bag.digest.hex() in self._rows

    def answers(self, bag: StoredBag) -> dict[bytes, bool]:
        """Return whether images need a conversion, by digest; only those of which it is known."""
        if bag not in self:
            return {}
        row, images = self._rows[bag.digest.hex()], bag.read_images()
        if row is None:
            return {image.digest: False for image in images}
        return {images[row].digest: True} if 0 <= row < len(images) else {}

    def remember(self, bag: StoredBag, row: int | None) -> None:
        """Keep the row of an image that needs a conversion, or that there is none."""
        self._rows[bag.digest.hex()] = row
        self._changed = True

    def keep_only(self, cache: FeatureCache) -> None:
        """Drop the entries of bags that are no longer in the cache, such as those that a prune removed."""
        if self._rows.keys() - _bags(cache):
            cache.refresh()  # another process may have added bags, and their entries, since it was opened
            gone = self._rows.keys() - _bags(cache)
            self._rows = {digest: row for digest, row in self._rows.items() if digest not in gone}
            self._changed |= bool(gone)

    def save(self) -> None:
        """Write the file if entries have changed. Of two processes that write it the later wins, harmlessly.

        A file that cannot be written is not an error: the images are then looked at again.
        """
        if self._changed:
            with contextlib.suppress(MilError):
                publish(self.path, canonical_json(asdict(_Content(DECODER, self._rows))))
            self._changed = False


def _bags(cache: FeatureCache) -> set[str]:
    """Return the digests of all bags of a cache in hexadecimal, superseded ones included."""
    return {bag.digest.hex() for patient in cache.patient_ids for bag in cache.versions(patient)}


def _read(path: Path) -> dict[str, int | None]:
    try:
        content = read_record_if_any(path, _Content)
    except MilError:
        logger.warning("%s cannot be read and is ignored: images are opened again.", printable(path))
        return {}
    return content.rows if content and content.decoder == DECODER else {}


class ColourChoice:
    """Finds whether an image of a cohort has a colour profile, and remembers it beside the shards.

    wanted: all images of the cohort
    rehash: whether every image is looked at, whatever is remembered
    colour: `srgb` if an image has a profile that is not sRGB, else None
    caches: the caches that were opened to find out
    """

    def __init__(
        self, wanted: Sequence[Wanted], folders: Mapping[Colour | None, Path], *, rehash: bool = False
    ):
        """Look at the images that the caches in these folders, one for each colour, do not know."""
        self.wanted, self.rehash = wanted, rehash
        self.caches: dict[Colour | None, FeatureCache] = {}
        self._seen: dict[_Image, _Stat] = {}
        self._profiled: _Image | None = None
        self._choose(folders)

    @property
    def colour(self) -> Colour | None:
        """The colour of the cohort's spec."""
        return "srgb" if self._profiled else None

    def _choose(self, folders: Mapping[Colour | None, Path]) -> None:
        for colour in () if self.rehash else COLOURS:  # one image with a profile decides
            self._recall(folders[colour], colour)
            if self._profiled:
                return
        for patient, name, path in _each(self.wanted):
            if (patient, name) not in self._seen and self._look(patient, name, path):
                return

    def _recall(self, folder: Path, colour: Colour | None) -> None:
        """Note what a cache's profiles tell about the images, as far as these have not changed.

        Shards that a prune removes meanwhile, and damaged ones, are no error here: the images are then looked
        at. If the cache is the one that is used, its errors are reported there.
        """
        profiles = Profiles(folder)
        if not profiles:
            return
        with contextlib.suppress(MilError):
            cache = self.caches[colour] = FeatureCache.open(folder)
            rehashes = Rehashes(folder)
            for patient in self.wanted:
                self._recall_patient(patient, cache.versions(patient.patient_id), profiles, rehashes)

    def _recall_patient(
        self, patient: Wanted, versions: Sequence[StoredBag], profiles: Profiles, rehashes: Rehashes
    ) -> None:
        answers: dict[bytes, bool] = {}
        digests: dict[tuple[str, int, int], bytes] = {}
        for bag in reversed(versions):  # of two contents with the same size and mtime, the newer one counts
            answers |= profiles.answers(bag)
            digests |= {image.stat_key: image.digest for image in bag.read_images()}
        for name, path in patient.images if answers else ():
            if stat := _stat(path):
                content = digests.get((name, *stat)) or rehashes.get(patient.patient_id, name, *stat)
                if content in answers:
                    self._note(patient.patient_id, name, stat, answers[content])

    def _look(self, patient: str, name: str, path: Path) -> bool:
        """Open an image and return whether it needs a conversion; one that cannot be read is not noted."""
        stat, found = _stat(path), needs_conversion(path)
        if found is not None:
            self._note(patient, name, stat, found)
        return bool(found)

    def _note(self, patient: str, name: str, stat: _Stat | None, found: bool) -> None:
        if found:
            self._profiled = (patient, name)
        if stat and is_settled(stat[1]):
            self._seen[patient, name] = stat

    def save(self, cache: FeatureCache, wanted: Sequence[Wanted]) -> None:
        """Remember beside the cache what was seen of these patients, whose bags in it match the images."""
        profiles = Profiles(cache.folder)
        for patient in wanted:
            for bag in cache.versions(patient.patient_id)[:1]:
                if self.rehash or bag not in profiles:
                    self._remember(profiles, bag, patient)
        profiles.keep_only(cache)
        profiles.save()

    def _remember(self, profiles: Profiles, bag: StoredBag, patient: Wanted) -> None:
        paths = dict(patient.images)
        names = bag.read_names()
        if self._profiled is None and all(self._is_as_seen(patient, name, paths) for name in names):
            profiles.remember(bag, None)
        elif self._profiled and self._profiled[0] == patient.patient_id:
            name = self._profiled[1]
            if name in names and self._is_as_seen(patient, name, paths):
                profiles.remember(bag, names.index(name))

    def _is_as_seen(self, patient: Wanted, name: str, paths: Mapping[str, Path]) -> bool:
        """Return whether an image's file is still the one that was looked at."""
        seen = self._seen.get((patient.patient_id, name))
        return seen is not None and name in paths and _stat(paths[name]) == seen


def _each(wanted: Iterable[Wanted]) -> Iterator[tuple[str, str, Path]]:
    """Yield patient, name and path of every image."""
    return ((patient.patient_id, name, path) for patient in wanted for name, path in patient.images)


def _stat(path: Path) -> _Stat | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
