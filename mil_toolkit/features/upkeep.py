"""`summarise_cache`, `verify` and `prune`: what mil-cache does with a folder of shards."""

from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.core.errors import DataError, MilError
from mil_toolkit.core.files import digest_json, remove_dead_temporaries, report_write_errors
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.system_files import fsync_folder
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import Shard, joined, read_shards, shard_paths
from mil_toolkit.features.spec import Spec, augmented, read_spec


@dataclass(frozen=True)
class CacheSummary:
    """What a cache holds; JSON-compatible.

    features: the cache's folder
    superseded: number of shards that `prune` would remove
    bytes: size of all shards
    computed: see `FeatureCache.recorded`
    """

    features: str
    spec: Spec
    patients: int
    images: int
    shards: int
    superseded: int
    bytes: int
    computed: list[str]


def summarise_cache(folder: Path) -> CacheSummary:
    """Count what a cache holds; raises DataError if `folder` is not a cache."""
    cache = FeatureCache.open(folder)
    bags = cache.winners(cache.patient_ids)
    return CacheSummary(
        features=str(folder),
        spec=cache.spec,
        patients=len(bags),
        images=sum(bag.size for bag in bags),
        shards=len(cache.shards),
        superseded=len(superseded(cache)),
        bytes=sum(shard.path.stat().st_size for shard in cache.shards),
        computed=cache.recorded(cache.patient_ids),
    )


def verify(folder: Path) -> int:
    """Check every byte of every shard and return the number of shards.

    The name of a shard must be the digest of its bytes, its spec that of the cache, and every bag must match
    its own digest. A shard that was deleted is not noticed, because there is no list of shards.

    Raises DataError that names every shard that is damaged, foreign, misnamed or of another spec.
    """
    return len(_verified_shards(folder))


def _verified_shards(folder: Path) -> list[Shard]:
    spec, paths = read_spec(folder), shard_paths(folder)
    errors: list[MilError] = [
        DataError(
            f"{printable(path)} is ignored by all readers: the name of a shard is the digest of its bytes."
        )
        for path in sorted({*folder.glob("*.h5")} - {*paths})
    ]
    try:
        with ProgressBar(len(paths), "shard", "verifying", delay=1.0) as bar:
            shards = read_shards(paths, digest_json(spec), spec["width"], augmented(spec), bar.update)
    except FileNotFoundError:  # a prune removed a shard after it was listed
        return _verified_shards(folder)
    except MilError as error:
        errors.append(error)
    if errors:
        raise joined(errors)
    return shards


def superseded(cache: FeatureCache) -> list[Shard]:
    """Return the shards that hold no bag that counts."""
    needed = {bag.shard.path for bag in cache.winners(cache.patient_ids)}
    return [shard for shard in cache.shards if shard.path not in needed]


def prune(folder: Path) -> tuple[int, int]:
    """Remove superseded shards and the temporary files of killed writers.

    Returns the number of removed shards and their size in bytes. An image that later changes back to removed
    content has to be embedded again.

    Raises DataError, and removes nothing, if the cache does not pass `verify`; BusyError while another
    process writes to it.
    """
    spec = read_spec(folder)
    with exclusive(folder):
        shards = superseded(FeatureCache(folder, spec, _verified_shards(folder)))
        freed = sum(shard.path.stat().st_size for shard in shards)
        with report_write_errors(folder):
            for shard in shards:
                shard.path.unlink()
            remove_dead_temporaries(folder)
            fsync_folder(folder)
    return len(shards), freed
