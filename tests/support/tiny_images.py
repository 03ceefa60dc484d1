"""Tiny cohorts of image files, and what mil-extract should make of them."""

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.extract import Extraction, extract
from mil_toolkit.features.pixels import prepare

CONFIG = ExtractionConfig(backbone="resnet18", weights="random", image_size=32)
BAGS = {"P1": 3, "P2": 1, "P3": 5, "P4": 2}  # number of images of each patient
LONG_AGO = time.time() - 10_000_000
backbone = functools.cache(build_backbone)


def draw(path: Path, seed: int) -> None:
    """Write a random image whose mtime is old enough to be trusted."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    os.utime(path, (LONG_AGO + seed, LONG_AGO + seed))


def write_cohort(folder: Path, bags: Mapping[str, int]) -> Path:
    """Write a cohort with these numbers of images, keeping existing ones; return its cohort.toml."""
    for patient, size in bags.items():
        for row in range(size):
            path = folder / "images" / patient / f"{row}.png"
            if not path.exists():
                draw(path, 100 * int(patient[1:]) + row)
    rows = [f"{patient},{number % 2}" for number, patient in enumerate(bags)]
    (folder / "table.csv").write_text("\n".join(["ID,LABEL", *rows]) + "\n")
    text = '[cohort]\nname = "c"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\nlabel = "LABEL"\n'
    (folder / "cohort.toml").write_text(text + "positive = 1\nnegative = 0\n")
    return folder / "cohort.toml"


def run(toml: Path, **options: object) -> Extraction:
    """Extract into a cache beside the cohort."""
    options = {"precision": "float32", "device": "cpu", "batch_size": 4, **options}
    return extract(read_cohort(toml), CONFIG, toml.parents[1] / "cache", **options)  # type: ignore[arg-type]


def bags_of(extraction: Extraction) -> dict[str, dict[str, np.ndarray]]:
    """Return the embeddings by patient and image name, as the cache returns them."""
    cache = FeatureCache.open(extraction.folder)
    packed = cache.bags(cache.patient_ids)
    rows = iter(zip(packed.image_names, packed.instances.numpy(), strict=True))
    return {
        p: dict(next(rows) for _ in range(n)) for p, n in zip(packed.patient_ids, packed.sizes, strict=True)
    }


def expected(toml: Path) -> dict[str, dict[str, np.ndarray]]:
    """Embed each image alone, in a batch of four whose other images are black."""
    embedder = Embedder(backbone("resnet18", "random"), torch.device("cpu"), torch.float32, (4, 32))

    def embed(path: Path) -> np.ndarray:
        batch = np.zeros((4, 32, 32, 3), dtype=np.uint8)
        batch[0] = prepare(decode(path.read_bytes()), 32, 0, "none")
        return embedder(torch.from_numpy(batch))[0].numpy()

    folders = sorted((toml.parent / "images").iterdir())
    return {folder.name: {path.name: embed(path) for path in sorted(folder.iterdir())} for folder in folders}


def same(one: Mapping[str, Mapping[str, np.ndarray]], other: Mapping[str, Mapping[str, np.ndarray]]) -> bool:
    """Return whether patients, images, their order and every bit of their embeddings agree."""
    names = [[*bag] for bag in one.values()] == [[*bag] for bag in other.values()]
    return (
        one.keys() == other.keys()
        and names
        and all(
            np.array_equal(row, other[patient][name]) for patient in one for name, row in one[patient].items()
        )
    )


def break_some(toml: Path) -> list[str]:
    """Corrupt three images; return the beginning of the message about each."""
    folder = toml.parent / "images"
    whole = (folder / "P1/1.png").read_bytes()
    (folder / "P1/1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "P2/0.png").write_bytes(b"")
    (folder / "P3/4.png").write_text("no image")
    return ["P1/1.png: cannot be decoded", "P2/0.png: the file is empty", "P3/4.png: not a JPEG"]
