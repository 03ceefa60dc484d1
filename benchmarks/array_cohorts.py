"""Cohorts and caches written from arrays, for the benchmarks that compare studies with other software."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.toml import toml_string
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.spec import SCHEMA, Spec

SPEC: Spec = {
    "schema": SCHEMA,
    "backbone": "pixels",
    "weights": "none",
    "seed": 0,
    "weight_digest": "0" * 64,
    "width": 64,
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
    "image_size": 8,
    "crop": 0,
    "preprocess": "none",
}


@dataclass(frozen=True)
class Data:
    """A cohort to be written.

    outcome: its columns; inputs: the metadata; keys: of `[cohort]` in TOML
    bags: the instances of each patient, (n, D), if there are images
    """

    outcome: pd.DataFrame
    inputs: pd.DataFrame
    keys: Mapping[str, str]
    bags: tuple[np.ndarray, ...] = ()


def write_cohort(folder: Path, data: Data) -> Cohort:
    """Write a table and a cohort.toml, and return the cohort."""
    ids = [f"P{row:04d}" for row in range(len(data.outcome))]
    table = pd.concat([data.outcome, data.inputs], axis=1).assign(patient=ids)
    table.to_csv(folder / "table.csv", index=False)
    lines = ["[cohort]", 'name = "data"', 'table = "table.csv"', 'id = "patient"']
    lines += [f"{key} = {value}" for key, value in data.keys.items()]
    for name in data.inputs:
        kind = "number" if pd.api.types.is_numeric_dtype(data.inputs[name]) else "category"
        quoted = toml_string(str(name))
        lines += [f"[metadata.{quoted}]", f"column = {quoted}", f'kind = "{kind}"']
    (folder / "cohort.toml").write_text("\n".join(lines), encoding="utf-8")
    return read_cohort(folder / "cohort.toml", images=False, log=False)


def write_bags(folder: Path, bags: tuple[np.ndarray, ...], patient_ids: tuple[str, ...]) -> FeatureCache:
    """Publish the bags as a cache, and return it."""
    images = [
        tuple(
            StoredImage(f"{row}.png", sha256(instance.tobytes()).digest(), row, row)
            for row, instance in enumerate(bag)
        )
        for bag in bags
    ]
    embedded = [
        EmbeddedBag(patient, images_of_bag, bag.astype(np.float16))
        for patient, images_of_bag, bag in zip(patient_ids, images, bags, strict=True)
    ]
    spec: Spec = {**SPEC, "width": bags[0].shape[1]}
    cache = FeatureCache.create(folder / "cache", "data", spec)
    cache.publish(embedded, Recorded("float32", "scikit-learn"))
    cache.refresh()
    return cache
