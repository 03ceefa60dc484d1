"""`describe`, `verify` and `prune`: what mil-cache does with a folder of shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_json, fsync_folder, remove_dead_temporaries
from mil_toolkit.core.locks import exclusive
from mil_toolkit.features.cache import FeatureCache, read_spec
from mil_toolkit.features.shards import EmbeddedBag, Shard, StoredBag, read_shard, shard_paths


def describe(folder: Path) -> dict[str, Any]:
    """What a cache holds: its spec, counts, bytes and how its embeddings were computed.

    `superseded`: shards that `prune` would remove. Raises DataError where `folder` is no cache.
    """
    cache = FeatureCache.open(folder)
    bags = cache.winners(cache.patient_ids)
    return {
        "features": str(folder),
        "spec": cache.spec,
        "patients": len(bags),
        "images": sum(len(bag.image_names) for bag in bags),
        "shards": len(cache.shards),
        "superseded": len(superseded(cache)),
        "bytes": sum(shard.path.stat().st_size for shard in cache.shards),
        "computed": sorted({" with ".join(bag.shard.recorded) for bag in bags}),
    }


def verify(folder: Path) -> int:
    """Check every byte of every shard and return how many there are.

    A shard's name is the digest of its bytes, it names the spec, and each bag has its own digest. What cannot
    be found: a shard that somebody removed, since there is no list of them.

    Raises DataError with every shard that is damaged, foreign, under a wrong name or of another spec.
    """
    spec, paths = read_spec(folder), shard_paths(folder)
    strangers = sorted({*folder.glob("*.h5")} - {*paths})
    problems = [
        f"{path} is read by nothing: a shard's name is the digest of its bytes." for path in strangers
    ]
    for path in paths:
        problems += _problems(path, digest_json(spec), spec["width"])
    if problems:
        raise DataError(problems)
    return len(paths)


def _problems(path: Path, spec_digest: str, width: int) -> list[str]:
    try:
        shard = read_shard(path, spec_digest, width)
        wrong = [bag.patient_id for bag, stored in _bags(shard) if bag.digest != stored.digest]
        finite = bool(np.isfinite(shard.embeddings()).all())
    except DataError as error:
        return error.problems
    except FileNotFoundError:  # a prune removed it
        return []
    lines = [f"{path}: the bag of patient {patient} does not match its digest." for patient in wrong]
    return lines if finite else [*lines, f"{path} holds embeddings that are not finite."]


def _bags(shard: Shard) -> Iterator[tuple[EmbeddedBag, StoredBag]]:
    embeddings = shard.embeddings()
    for index, patient in enumerate(shard.patient_ids):
        stored = StoredBag(shard, index)
        yield EmbeddedBag(patient, stored.images, embeddings[stored.rows]), stored


def superseded(cache: FeatureCache) -> list[Shard]:
    """The shards without any bag that counts."""
    needed = {bag.shard.path for bag in cache.winners(cache.patient_ids)}
    return [shard for shard in cache.shards if shard.path not in needed]


def prune(folder: Path) -> tuple[int, int]:
    """Remove superseded shards and what dead writers left; returns how many shards, and their bytes.

    What they held is embedded again should an image change back. Raises DataError, and removes nothing, where
    the cache does not pass `verify`; BusyError while something writes to it.
    """
    read_spec(folder)
    with exclusive(folder):
        verify(folder)
        shards = superseded(FeatureCache.open(folder))
        freed = sum(shard.path.stat().st_size for shard in shards)
        for shard in shards:
            shard.path.unlink()
        remove_dead_temporaries(folder)
        fsync_folder(folder)
    return len(shards), freed
