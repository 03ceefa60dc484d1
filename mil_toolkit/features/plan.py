"""The plan of an extraction: which images are missing from a cache or have changed."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.files import digest_file
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.shards import UNKNOWN_MTIME, Recorded, StoredBag, StoredImage

SETTLED_NS = 2_000_000_000


# What is to be done: the cohort's images against what the cache knows of them.


class Wanted(NamedTuple):
    """A patient whose bag shall be these images, (name, path) each, in this order."""

    patient_id: str
    images: tuple[tuple[str, Path], ...]


class Stored(NamedTuple):
    """Where an image's embedding already lies; `image` as its file is now."""

    image: StoredImage
    bag: StoredBag
    row: int


class Plan(NamedTuple):
    """A bag to publish; `stored` holds for each wanted image its embedding's place, or None: to be embedded."""

    wanted: Wanted
    stored: list[Stored | None]

    @property
    def missing(self) -> list[int]:
        """Places of the images that are to be embedded."""
        return [place for place, stored in enumerate(self.stored) if stored is None]


def wanted_images(cohort: Cohort, patient: str) -> Wanted:
    return Wanted(patient, tuple(zip(cohort.image_names[patient], cohort.images[patient], strict=True)))


def plan_all(
    cache: FeatureCache, wanted: Iterable[Wanted], recorded: Recorded, rehashes: Rehashes, rehash: bool
) -> list[Plan]:
    """Plans of the patients whose bag that counts does not match their images."""
    plans = (plan(each, cache.versions(each.patient_id), recorded, rehashes, rehash) for each in wanted)
    return [each for each in plans if each is not None]


def plan(
    wanted: Wanted, versions: Sequence[StoredBag], recorded: Recorded, rehashes: Rehashes, rehash: bool
) -> Plan | None:
    """What is to be done for one patient; None where the stored bag that counts matches the images.

    An embedding computed in another precision or by another decoder stays, but is not mixed into a new bag.
    """
    if not versions:
        return Plan(wanted, [None] * len(wanted.images))
    # The bag that counts comes last, so that of two contents with one size and mtime the newer is believed.
    rows = [Stored(image, bag, row) for bag in reversed(versions) for row, image in enumerate(bag.images)]
    by_stat = {} if rehash else {_stat_key(each.image): each.image.digest for each in rows}
    current = [_identify(wanted.patient_id, *each, by_stat, rehashes, rehash) for each in wanted.images]
    if [each and each[:2] for each in current] == [each[:2] for each in versions[0].images]:
        return None
    usable = {each.image.digest: each for each in rows if each.bag.shard.recorded == recorded}
    return Plan(wanted, [_reuse(image, usable) for image in current])


def _reuse(image: StoredImage | None, usable: Mapping[bytes, Stored]) -> Stored | None:
    stored = usable.get(image.digest) if image else None
    return stored._replace(image=image) if image and stored else None


def _stat_key(image: StoredImage) -> tuple[str, int, int]:
    return image.name, image.size, image.mtime_ns


def _identify(
    patient: str,
    name: str,
    path: Path,
    by_stat: Mapping[tuple[str, int, int], bytes],
    rehashes: Rehashes,
    rehash: bool,
) -> StoredImage | None:
    """What the file is now: by size and mtime, else by hashing it; None where it cannot be read.

    A file that cannot be read becomes one to embed, and is reported when that fails.
    """
    try:
        status = path.stat()
        image = stored_image(name, status, b"")
        known = by_stat.get(key := (name, status.st_size, status.st_mtime_ns))
        known = known or (None if rehash else rehashes.get(patient, *key))
        if known is None:
            known = bytes.fromhex(digest_file(path))
            if image.mtime_ns != UNKNOWN_MTIME:
                rehashes.remember(patient, *key, known)
    except OSError:
        return None
    return image._replace(digest=known)


def stored_image(name: str, status: os.stat_result, content_digest: bytes) -> StoredImage:
    # Within the resolution of a file system's clock, a second change could leave the mtime as it is.
    settled = status.st_mtime_ns < time.time_ns() - SETTLED_NS
    return StoredImage(name, content_digest, status.st_size, status.st_mtime_ns if settled else UNKNOWN_MTIME)
