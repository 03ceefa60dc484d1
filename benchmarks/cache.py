"""Measure the cache: a run with nothing to do, listing, loading, and peak memory while extracting.

    python benchmarks/cache.py [--json]

- unchanged: 13,500 images (270 patients) that are all embedded already: planning, and the whole command
- listing: open a cache of 10,000 patients with 20 images each
- loading: load 13,500 embeddings of width 512
- peak: resident memory of a process that extracts 1,000 images, and of one that extracts 8,000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from extraction import draw_cohort  # type: ignore[import-not-found]  # the script beside this one

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.files import digest
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.plan import Wanted, find_outdated
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.spec import make_spec

CONFIG = ExtractionConfig(weights="random")
RECORDED = Recorded("bfloat16", "pillow")
BAG = 50
COMMAND = "import sys; from mil_toolkit.cli.extract import main; sys.exit(main(sys.argv[1:]))"
PEAK = "import resource; from mil_toolkit.cli.extract import main; main(__import__('sys').argv[1:]); "
PEAK += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures |= unchanged(folder / "unchanged", 270)
        figures |= listing(folder / "listing", 10_000, 20) | loading(folder / "loading", 270)
        for images in (1_000, 8_000):
            figures[f"peak_mb_{images}_images"] = peak(folder / str(images), images // BAG)
    print(
        json.dumps(figures) if as_json else "\n".join(f"{key}: {value:.4g}" for key, value in figures.items())
    )


def linked_cohort(folder: Path, patients: int) -> Path:
    """Create a cohort of patients who share the same 50 image files, with old modification times."""
    folder.mkdir(parents=True)
    toml = draw_cohort(folder, BAG)
    for path in (folder / "images/P0").iterdir():
        os.utime(path, (time.time() - 1e6,) * 2)
    for number in range(1, patients):
        (folder / f"images/P{number}").mkdir()
        for path in (folder / "images/P0").iterdir():
            os.link(path, folder / f"images/P{number}/{path.name}")
    (folder / "table.csv").write_text("\n".join(["ID", *(f"P{number}" for number in range(patients))]) + "\n")
    return toml


def stored(path: Path) -> StoredImage:
    """Return what an extraction records about a file."""
    status = path.stat()
    return StoredImage(
        path.name, bytes.fromhex(digest(path.read_bytes())), status.st_size, status.st_mtime_ns
    )


def publish_all(cache: FeatureCache, bags: Sequence[EmbeddedBag]) -> None:
    """Publish bags in shards of 64 patients."""
    for start in range(0, len(bags), 64):
        cache.publish(bags[start : start + 64], RECORDED)


def filled(root: Path, cohort: Cohort) -> FeatureCache:
    """Create a cache of this cohort with random embeddings."""
    identity = build_backbone("resnet34", "random").identity
    cache = FeatureCache.create(root, cohort.name, make_spec(CONFIG, identity))
    random = np.random.default_rng(0)
    bags = [
        EmbeddedBag(
            patient, tuple(map(stored, paths)), random.normal(size=(len(paths), 512)).astype(np.float16)
        )
        for patient, paths in cohort.images.items()
    ]
    publish_all(cache, bags)
    return cache


def seconds(call: Callable[[], object]) -> float:
    """Return the shortest of five times."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def unchanged(folder: Path, patients: int) -> dict[str, float]:
    """Time a run that finds every image embedded."""
    toml = linked_cohort(folder, patients)
    cohort = read_cohort(toml)
    root = filled(folder / "cache", cohort).folder
    wanted = [
        Wanted(patient, tuple(zip(cohort.image_names[patient], paths, strict=True)))
        for patient, paths in cohort.images.items()
    ]

    def plan() -> None:
        assert not find_outdated(FeatureCache.open(root), wanted, Rehashes(root), rehash=False)

    command = [
        sys.executable,
        "-c",
        COMMAND,
        str(toml),
        "--weights",
        "random",
        "--cache",
        str(folder / "cache"),
    ]
    return {
        "unchanged_images": sum(map(len, cohort.images.values())),
        "unchanged_seconds_planning": seconds(plan),
        "unchanged_seconds_reading_cohort": seconds(lambda: read_cohort(toml)),
        "unchanged_seconds_command": seconds(
            lambda: subprocess.run(command, check=True, capture_output=True)
        ),
    }


def synthetic(root: Path, patients: int, images: int) -> FeatureCache:
    """Create a cache of random embeddings that belongs to no cohort."""
    cache = FeatureCache.create(root, "c", make_spec(CONFIG, build_backbone("resnet34", "random").identity))
    random = np.random.default_rng(0)
    names = tuple(StoredImage(f"{row}.jpg", random.bytes(32), row, row) for row in range(images))
    embeddings = random.normal(size=(images, 512)).astype(np.float16)
    publish_all(cache, [EmbeddedBag(f"P{number}", names, embeddings) for number in range(patients)])
    return cache


def listing(root: Path, patients: int, images: int) -> dict[str, float]:
    """Time opening a large cache and listing its patients."""
    folder = synthetic(root, patients, images).folder
    return {"listing_seconds_10000_patients": seconds(lambda: FeatureCache.open(folder).patient_ids)}


def loading(root: Path, patients: int) -> dict[str, float]:
    """Time loading all embeddings of an open cache."""
    cache = FeatureCache.open(synthetic(root, patients, BAG).folder)
    return {"loading_seconds_13500_images": seconds(lambda: cache.bags(cache.patient_ids))}


def peak(folder: Path, patients: int) -> float:
    """Return the peak memory of an extracting process, in MiB."""
    toml = linked_cohort(folder, patients)
    options = ["--weights", "random", "--image-size", "96", "--cache", str(folder / "cache")]
    command = [sys.executable, "-c", PEAK, str(toml), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
