"""`check_views`: several views of a cohort must hold the same images of every patient, in the same order."""

from collections.abc import Iterator, Sequence

import numpy as np

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import StoredBag

_ADVICE = (
    "Views are embeddings of the same images. Run mil-extract again for each folder, or compare folders of"
    " other images with mil-ablate --features."
)


def check_views(caches: Sequence[FeatureCache], patient_ids: Sequence[str]) -> None:
    """Raise DataError that names every patient without embeddings or with other images, and the folder.

    Images are compared by name, and by the digest of the file where both views were extracted here: the
    digests of imported features are those of the other tool's files.
    """
    absent = [problem for cache in caches for problem in cache.absent(patient_ids)]
    if absent:
        raise DataError(absent)
    if len(caches) < 2:
        return
    first, *others = caches
    problems = [problem for other in others for problem in _differences(first, other, patient_ids)]
    if problems:
        raise DataError([*problems, _ADVICE])


def _differences(one: FeatureCache, other: FeatureCache, patient_ids: Sequence[str]) -> Iterator[str]:
    digests = all(cache.spec["weight_digest"] is not None for cache in (one, other))
    pairs = zip(one.winners(patient_ids), other.winners(patient_ids), strict=True)
    for patient, (here, there) in zip(patient_ids, pairs, strict=True):
        reason = _difference(here, there, digests)
        if reason:
            folders = f"{printable(other.folder)} and {printable(one.folder)}"
            yield f"patient {printable(patient)}: {folders} {reason}."


def _difference(one: StoredBag, other: StoredBag, digests: bool) -> str | None:
    """Return how the images of a patient differ, as the end of a sentence; None if they are the same."""
    names, other_names = one.read_names(), other.read_names()
    if sorted(names) != sorted(other_names):
        only = sorted(set(names) ^ set(other_names))
        example = f", such as {printable(only[0])}" if only else ""
        return f"hold other images ({len(other_names)} and {len(names)}{example})"
    if names != other_names:
        return "hold the same images in another order"
    if digests:
        changed = np.flatnonzero((one.read_digests() != other.read_digests()).any(1))
        if len(changed):
            return f"were extracted from other files of the same name, such as {printable(names[changed[0]])}"
    return None
