"""Cohorts and studies of made-up embeddings, without image files or a table, in which tests plant flaws."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.spec import Spec

Column = Sequence[float] | Sequence[str | None] | np.ndarray  # numbers with NaN, or words with None


def make_cohort(
    labels: Sequence[int] | np.ndarray, metadata: Mapping[str, Column], groups: Sequence[str] | None = None
) -> Cohort:
    """Return patients P000, P001, ... with these labels and metadata."""
    ids = tuple(f"P{number:03d}" for number in range(len(labels)))
    table = pd.DataFrame(
        {
            name: pd.Series(list(values), list(ids), dtype=object if _is_words(values) else float)
            for name, values in metadata.items()
        },
        index=pd.Index(ids, dtype=object),
    )
    columns = tuple(
        MetadataColumn(name, name.upper(), "category" if _is_words(values) else "number")
        for name, values in metadata.items()
    )
    return Cohort(
        name="planted",
        source=Path("planted.toml"),
        patient_ids=ids,
        labels=np.array(labels, dtype=np.int8),
        groups=None if groups is None else np.array(groups, dtype=str),
        columns=columns,
        metadata=table,
        stratify=("label",),
        images={},
        image_names={},
    )


def _is_words(values: Column) -> bool:
    return any(isinstance(value, str) for value in values)


def make_cache(
    root: Path,
    cohort: Cohort,
    bags: Sequence[np.ndarray],
    contents: Mapping[tuple[str, str], bytes] | None = None,
    weights: str = "none",
) -> FeatureCache:
    """Create a cache of these (n, D) embeddings, of images 0.png, 1.png, ... of each patient.

    contents: of some files, by patient and name; the contents of all others differ
    weights: of the spec; a bundle without a digest of them has "imported from ..."
    """
    contents = contents or {}
    stored = []
    for patient, embeddings in zip(cohort.patient_ids, bags, strict=True):
        names = [f"{number}.png" for number in range(len(embeddings))]
        digests = [contents.get((patient, name), f"{patient}/{name}".encode()) for name in names]
        images = tuple(
            StoredImage(name, hashlib.sha256(content).digest(), 10, 0)
            for name, content in zip(names, digests, strict=True)
        )
        stored.append(EmbeddedBag(patient, images, np.asarray(embeddings, dtype=np.float16)))
    spec: Spec = {
        "schema": 1,
        "backbone": "made-up",
        "weights": weights,
        "seed": None,
        "weight_digest": None,
        "width": int(bags[0].shape[1]),
        "mean": None,
        "std": None,
        "image_size": 1,
        "crop": 0,
        "preprocess": "none",
    }
    cache = FeatureCache.create(root, cohort.name, spec)
    cache.publish(stored, Recorded("float32", "none"))
    cache.refresh()
    return cache
