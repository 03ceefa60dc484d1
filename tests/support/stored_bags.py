"""Caches and feature files of random embeddings, made without a backbone."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.spec import Spec

SPEC: Spec = {
    "schema": 1,
    "backbone": "net",
    "weights": "random",
    "seed": 0,
    "weight_digest": "0" * 64,
    "width": 3,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "image_size": 64,
    "crop": 0,
    "preprocess": "none",
}
RECORDED = Recorded("float32", "pillow 13")


def bag(patient: str, size: int = 2, seed: int = 0, names: Sequence[str] = ()) -> EmbeddedBag:
    """Return a patient's bag of random embeddings (n, 3)."""
    random = np.random.default_rng(seed)
    names = names or [f"{row}.png" for row in range(size)]
    images = tuple(StoredImage(name, random.bytes(32), row, row) for row, name in enumerate(names))
    return EmbeddedBag(patient, images, random.standard_normal((len(names), 3)).astype(np.float16))


def augmented_bag(
    patient: str, size: int = 2, seed: int = 0, count: int = 2, factor: float = 1.0
) -> EmbeddedBag:
    """Return a patient's bag of random embeddings, and those of `count` other orientations times `factor`."""
    plain = bag(patient, size, seed)
    others = factor * np.random.default_rng(seed + 1000).standard_normal((size, count, 3))
    return EmbeddedBag(patient, plain.images, plain.embeddings, others.astype(np.float16))


def augmented_spec(count: int) -> Spec:
    """Return the spec of images that are also embedded in `count` other orientations."""
    return {**SPEC, "augment": {"count": count, "rule": "square-symmetries-1"}}


def three_patients(root: Path) -> FeatureCache:
    """Create a cache of three patients in two shards."""
    cache = FeatureCache.create(root, "cohort", SPEC)
    cache.publish([bag("a", 5, 1), bag("b", 1, 2)], RECORDED)
    cache.publish([bag("c", 3, 3)], RECORDED)
    cache.refresh()
    return cache


def write_trident(path: Path, features: np.ndarray, encoder: str | None = "uni_v1") -> None:
    """Write a feature file as TRIDENT does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = np.zeros((features.shape[-2], 2), np.int64)
        if encoder:
            file["features"].attrs["encoder"] = encoder
