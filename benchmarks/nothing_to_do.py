"""Measure commands that have nothing to do: time and peak memory of whole processes.

    python benchmarks/nothing_to_do.py [--rounds 3] [--against CHECKOUT] [--only WORD] [--json]

A cohort of 90 patients with 150 small images each, all embedded already, a small study on it and its bundle.
Each command runs once before it is measured. Times vary with the load of the machine, so that two checkouts
are compared by turns in one run; the shortest of all rounds counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.bundle.fit import fit
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.files import digest
from mil_toolkit.features.cache import FeatureCache, find_cache
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.spec import make_spec
from mil_toolkit.study.tune import tune

CONFIG = ExtractionConfig(weights="random")
STUDY = StudyConfig(trials=5, folds=3, outer_folds=3, members=2, settings={"epochs": (10,)})
PATIENTS, BAG = 90, 150
# `getrusage` would count the memory of this process, from which the command's is forked.
RUN = """
import atexit, shutil, sys
atexit.register(shutil.copyfile, "/proc/self/status", "status")
from mil_toolkit.cli.{} import main
sys.exit(main(sys.argv[1:]))
"""
COMMANDS = ("extract", "tune", "fit", "predict", "ablate", "report", "cache", "init", "demo")


class Figures(NamedTuple):
    """Time and memory of a process: seconds, seconds of a processor, and MiB at its peak."""

    wall: float
    processor: float
    peak: float


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--folder", type=Path, help="where to prepare the study, or where it is prepared")
    parser.add_argument("--only", default="", help="measure only the commands whose line has this word")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    here = Path(__file__).parents[1]
    checkouts = [here, *([arguments.against.resolve()] if arguments.against else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        figures = {
            line: best(checkouts, line, folder, arguments.rounds)
            for line in prepared(folder)
            if arguments.only in line
        }
    print(json.dumps(figures) if arguments.json else "\n".join(table(figures)))


def table(figures: dict[str, list[Figures]]) -> Iterator[str]:
    """Yield the lines of a table: this checkout, then the other one."""
    yield f"{'command':40s}" + "wall s  processor s  peak MiB   " * len(next(iter(figures.values())))
    for line, checkouts in figures.items():
        cells = "   ".join(f"{wall:6.2f}{cpu:13.2f}{peak:10.0f}" for wall, cpu, peak in checkouts)
        yield f"{line:40s}{cells}"


def prepared(folder: Path) -> Iterator[str]:
    """Create the cohort, its cache, a study and a bundle; yield the lines to run in the folder."""
    if not (folder / "bundle").exists():
        folder.mkdir(exist_ok=True)
        cohort = read_cohort(write_cohort(folder))
        cache = filled(folder / "cache", cohort)
        tune(cohort, cache, folder / "study", STUDY)
        fit(cohort, cache, folder / "study", folder / "bundle")
    features = find_cache("c", folder / "cache").relative_to(folder)
    yield "extract cohort.toml --weights random"
    yield f"cache info {features}"
    yield f"cache verify {features}"
    yield "predict bundle cohort.toml"
    yield f"predict bundle cohort.toml --features {features}"
    yield "report study --output report.html"
    yield "report study --output drawn.html --force"
    yield from (f"{command} --help" for command in COMMANDS)


def write_cohort(folder: Path) -> Path:
    """Create a cohort of small images with old modification times."""
    random, begun = np.random.default_rng(0), time.time() - 1e6
    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "image.jpg")
    content = (folder / "image.jpg").read_bytes()
    for patient in range(PATIENTS):
        place = folder / "images" / f"P{patient}"
        place.mkdir(parents=True)
        for row in range(BAG):
            (place / f"{row}.jpg").write_bytes(content + f"{patient} {row}".encode())  # no two are the same
            os.utime(place / f"{row}.jpg", (begun, begun))
    ages = random.normal(60, 9, PATIENTS)
    rows = [f"P{patient},{patient % 2},{age:.1f}" for patient, age in enumerate(ages)]
    (folder / "table.csv").write_text("\n".join(["ID,LABEL,AGE", *rows]) + "\n")
    (folder / "cohort.toml").write_text(
        '[cohort]\nname = "c"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\nlabel = "LABEL"\n'
        'positive = 1\nnegative = 0\n\n[metadata.age]\ncolumn = "AGE"\nkind = "number"\n'
    )
    return folder / "cohort.toml"


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
    for start in range(0, PATIENTS, 6):
        cache.publish(bags[start : start + 6], Recorded("float32", "pillow"))
        cache.refresh()
    return cache


def stored(path: Path) -> StoredImage:
    """Return what an extraction records about a file."""
    status = path.stat()
    return StoredImage(
        path.name, bytes.fromhex(digest(path.read_bytes())), status.st_size, status.st_mtime_ns
    )


def best(checkouts: Sequence[Path], line: str, folder: Path, rounds: int) -> list[Figures]:
    """Return the smallest figures of each checkout's rounds, by turns, after one that is not counted."""
    runs = [[measured(checkout, line, folder) for checkout in checkouts] for _ in range(1 + rounds)][1:]
    return [Figures(*map(min, zip(*figures, strict=True))) for figures in zip(*runs, strict=True)]


def measured(checkout: Path, line: str, folder: Path) -> Figures:
    """Run a line with the package of a checkout, and measure the whole process."""
    command, *options = line.split()
    arguments = [sys.executable, "-c", RUN.format(command), *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    begun = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=nowhere, stderr=nowhere)
        _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"mil-{line} of {checkout} ended with {process.returncode}")
    status_lines = dict(text.split(":", 1) for text in (folder / "status").read_text().splitlines())
    return Figures(wall, used.ru_utime + used.ru_stime, int(status_lines["VmHWM"].split()[0]) / 1024)


if __name__ == "__main__":
    main()
