"""`find_outdated`: find the patients whose images are missing from a cache or have changed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.file_state import UNKNOWN_MTIME, known_mtime
from mil_toolkit.core.files import digest_file
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.opening import MAX_BYTES
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.shards import Recorded, StoredBag, StoredImage


class Wanted(NamedTuple):
    """The images, as pairs of name and path, that a patient's bag should consist of, in this order.

    microns_per_pixel: of the files, if the images are resampled
    """

    patient_id: str
    images: tuple[tuple[str, Path], ...]
    microns_per_pixel: float | None = None


class Stored(NamedTuple):
    """An embedding that is in the cache already.

    image: the image's file as it is now
    bag, row: where its embedding is stored
    """

    image: StoredImage
    bag: StoredBag
    row: int


class Plan(NamedTuple):
    """A bag to publish.

    stored: for each wanted image its embedding, or None if the image has to be embedded
    """

    wanted: Wanted
    stored: list[Stored | None]

    @property
    def missing(self) -> list[int]:
        """Indices of the images that have to be embedded."""
        return [index for index, stored in enumerate(self.stored) if stored is None]


def wanted_images(cohort: Cohort, patient: str, resampled: bool = False) -> Wanted:
    """Return the images of a patient as the cohort has them; resampled: whether their scale matters."""
    images = zip(cohort.image_names[patient], cohort.images[patient], strict=True)
    return Wanted(patient, tuple(images), cohort.scales.get(patient) if resampled else None)


class Outdated(NamedTuple):
    """A patient whose bag in the cache does not match the wanted images.

    current: for each wanted image its file as it is now; None if it is unreadable or nothing is stored
    rows: the patient's embeddings in the cache
    """

    wanted: Wanted
    current: Sequence[StoredImage | None]
    rows: Sequence[Stored] = ()

    def plan(self, recorded: Recorded) -> Plan:
        """Return the plan of a new bag.

        recorded: how missing embeddings will be computed; those of another precision or decoder are kept in
            the cache, but not reused in a new bag
        """
        same = (stored for stored in self.rows if stored.bag.shard.recorded == recorded)
        reusable = {stored.image.digest: stored for stored in same}
        return Plan(self.wanted, [_reuse(image, reusable) for image in self.current])


_SOON = 2.0  # seconds within which most caches are compared


def find_outdated(
    cache: FeatureCache, wanted: Iterable[Wanted], rehashes: Rehashes, rehash: bool
) -> list[Outdated]:
    """Return each patient whose bag in the cache does not match the wanted images.

    rehash: hash every file, even if its size and mtime are known
    """
    patients, outdated = list(wanted), []
    with ProgressBar(len(patients), "patient", "comparing", delay=_SOON) as bar:
        for patient in patients:
            compared = _compare(patient, cache.versions(patient.patient_id), rehashes, rehash)
            outdated += [] if compared is None else [compared]
            bar.update()
    return outdated


def _compare(
    wanted: Wanted, versions: Sequence[StoredBag], rehashes: Rehashes, rehash: bool
) -> Outdated | None:
    """Compare one patient's images with the stored bag that counts; None if they match.

    Bags whose images were resampled from another scale are passed over.
    """
    counts = versions[:1]
    versions = [bag for bag in versions if bag.microns_per_pixel == wanted.microns_per_pixel]
    if not versions:
        return Outdated(wanted, [None] * len(wanted.images))
    images = [bag.read_images() for bag in versions]
    # The bag that counts comes last: of two contents with the same size and mtime, the newer one is assumed.
    rows = [
        Stored(image, bag, row)
        for bag, stored in zip(reversed(versions), reversed(images), strict=True)
        for row, image in enumerate(stored)
    ]
    by_stat = {} if rehash else {stored.image.stat_key: stored.image.digest for stored in rows}
    current = [
        _identify(wanted.patient_id, name, path, by_stat, rehashes, rehash) for name, path in wanted.images
    ]
    newest = [image[:2] for image in images[0]]
    if versions[0] == counts[0] and [image and image[:2] for image in current] == newest:
        return None
    return Outdated(wanted, current, rows)


def _reuse(image: StoredImage | None, reusable: Mapping[bytes, Stored]) -> Stored | None:
    stored = reusable.get(image.digest) if image else None
    return stored._replace(image=image) if image and stored else None


def _identify(
    patient: str,
    name: str,
    path: Path,
    by_stat: Mapping[tuple[str, int, int], bytes],
    rehashes: Rehashes,
    rehash: bool,
) -> StoredImage | None:
    """Identify the content of a file by its size and mtime, or else by its hash.

    Returns None if the file cannot be read. It is then planned to be embedded, which reports the error.
    """
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            return None
        mtime = known_mtime(status.st_mtime_ns)
        known = by_stat.get(key := (name, status.st_size, status.st_mtime_ns))
        known = known or (None if rehash else rehashes.get(patient, *key))
        if known is None:
            known = bytes.fromhex(digest_file(path))
            if mtime != UNKNOWN_MTIME:
                rehashes.remember(patient, *key, known)
    except (OSError, ValueError, MilError):
        return None
    return StoredImage(name, known, status.st_size, mtime)
