"""`import_features`: make a cache from the feature files of another tool."""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.cohort.declaration import COHORT_NAME
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.file_state import UNKNOWN_MTIME
from mil_toolkit.core.files import digest_file, remove_dead_temporaries
from mil_toolkit.core.locks import shared
from mil_toolkit.core.text import count_of, printable, some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.cache_place import check_cache_place
from mil_toolkit.features.feature_files import FeatureFile, find_feature_files
from mil_toolkit.features.foreign import read_foreign
from mil_toolkit.features.half_precision import to_float16
from mil_toolkit.features.import_checks import Content, Read, check_files
from mil_toolkit.features.isolation import IsolatedProcess
from mil_toolkit.features.layouts import SOURCES
from mil_toolkit.features.publishing import ShardLimits, publish_in_shards
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.slide_table import assign_slides
from mil_toolkit.features.spec import SCHEMA, Spec

SHARD_LIMITS = ShardLimits(patients=64, images=2**15)
logger = logging.getLogger(__name__)


def import_features(
    source: Path,
    format: str,
    root: Path,
    cohort_name: str,
    encoder: str | None = None,
    table: Path | None = None,
) -> FeatureCache:
    """Make a cache from the feature files of another tool, or bring it up to date; return it.

    source: the tool's folder of features
    format: a name in SOURCES
    encoder: names the network if the files do not
    table: a CSV file that says which files belong to which patient, with the columns case_id and slide_id
        (CLAM), PATIENT and FILENAME (STAMP), or patient and path. By default a patient is one file, or all
        files in a folder.

    Features are stored in float16, the precision of every cache. The name of an instance consists of its
    file, row and coordinates. The size and magnification of tiles, if the files state them, are part of the
    spec. Patients of an earlier import that this one does not have stay in the cache, and are
    logged.

    Raises UsageError if `cohort_name` cannot name a folder, or if the cache would be inside `source`. Raises
    DataError that names every file that cannot be imported, before anything is written: links, virtual or
    external data, more data than the file can hold, values that are not finite, exceed float16 or are too
    small for it, another width or encoder than the other files; and DataError if the files mix tiles of
    different sizes or magnifications.
    """
    _check_names(cohort_name, encoder)
    encoder = None if encoder is None else encoder.strip()
    check_cache_place(root, cohort_name, [source])
    layout = SOURCES[format]
    files = find_feature_files(source, layout)
    patients = assign_slides(files, table) if table else _by_folder(files.values())
    with IsolatedProcess() as process:
        read = partial(read_foreign, layout=layout, isolated=process.call)
        content = check_files([file for group in patients.values() for file in group], read, encoder)
        cache = FeatureCache.create(root, cohort_name, _spec(format, content))
        recorded = Recorded(content.precision, f"imported from {format}")
        with shared(cache.folder):
            remove_dead_temporaries(cache.folder)
            bags = (_join(patient, group, read) for patient, group in patients.items())
            new = (bag for bag in bags if _is_new(bag, cache))
            publish_in_shards(cache.publish, new, recorded, SHARD_LIMITS)
    cache.refresh()
    _log_others(cache, patients)
    return cache


def _check_names(cohort_name: str, encoder: str | None) -> None:
    if not COHORT_NAME.fullmatch(cohort_name):
        raise UsageError(
            f"--cohort {cohort_name!r} must start with a letter or digit and contain only letters, digits, _,"
            " spaces, dots and dashes, because it names a folder."
        )
    if encoder is not None and not encoder.strip():
        raise UsageError("--encoder is empty. Name the network that made the features.")
    if encoder is not None and not encoder.isprintable():
        raise UsageError(f"--encoder {printable(encoder)}: the name of a network is printable text.")


def _spec(format: str, content: Content) -> Spec:
    """Return the spec of imported features, of whose computation only the origin is known."""
    spec: Spec = {
        "schema": SCHEMA,
        "backbone": content.encoder,
        "weights": f"imported from {format}",
        "width": content.width,
        "seed": None,
        "weight_digest": None,
        "mean": None,
        "std": None,
        "image_size": 0,
        "crop": 0,
        "preprocess": "none",
    }
    if content.tile:
        spec["tile"] = content.tile
    return spec


def _log_others(cache: FeatureCache, patients: Iterable[str]) -> None:
    """Warn of patients that an earlier import left in the cache."""
    others = sorted({*cache.patient_ids}.difference(patients))
    if others:
        logger.warning(
            "The cache keeps %s of an earlier import that this one does not have: %s. To drop them, remove %s"
            " and import again.",
            count_of(len(others), "patient"),
            some([printable(patient) for patient in others]),
            cache.folder,
        )


def _by_folder(files: Iterable[FeatureFile]) -> dict[str, list[FeatureFile]]:
    patients: dict[str, list[FeatureFile]] = {}
    for file in sorted(files):
        patients.setdefault(normal_form(file.name.partition("/")[0]), []).append(file)
    return patients


def _join(patient: str, files: Sequence[FeatureFile], read: Read) -> EmbeddedBag:
    """Return all files of a patient as one bag."""
    images: list[StoredImage] = []
    embeddings = []
    for name, path, _ in files:
        foreign = read(path)
        content, size = bytes.fromhex(digest_file(path)), path.stat().st_size
        rows = range(len(foreign.features))
        images += [
            StoredImage(f"{name}:{row}{_place(foreign.coords, row)}", content, size, UNKNOWN_MTIME)
            for row in rows
        ]
        embeddings.append(to_float16(path, foreign.features))
    return EmbeddedBag(patient, tuple(images), np.concatenate(embeddings))


def _place(coords: NDArray[np.number] | None, row: int) -> str:
    return "" if coords is None else f"@{coords[row, 0]:g},{coords[row, 1]:g}"


def _is_new(bag: EmbeddedBag, cache: FeatureCache) -> bool:
    versions = cache.versions(bag.patient_id)
    return not versions or versions[0].digest != bag.digest
