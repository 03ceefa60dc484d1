"""Measure every command on cohorts of 10,000 patients with 10, 100 and 1,000 images each.

    python benchmarks/scale.py [--sizes 100000 1000000 10000000] [--folder /tmp] [--json]

The embeddings are random, 384 columns wide, in shards of the toolkit's own format. A weak signal is added to
the embeddings of positive patients. Each command runs in a process of its own, of which the table shows wall
time, processor time and peak memory: the sum over the whole process tree of the proportional set size (PSS),
sampled ten times a second. The time of one trial is that between the first and the last trial of a search of
`mil-tune`, without starting and loading.

Ten million images take 8 GB in `--folder` and another 4 GB for the temporary files of `mil-tune`.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna

from mil_toolkit.core.files import digest
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage, encode_shard
from mil_toolkit.features.spec import Spec

PATIENTS, WIDTH = 10_000, 384
SHARD_IMAGES, SHARD_PATIENTS = 1024, 64  # as mil-extract publishes
SIGNAL = 0.05  # added to the first columns of a positive patient's embeddings
SPEC: Spec = {
    "schema": 1,
    "backbone": "simulated",
    "weights": "random",
    "seed": 0,
    "weight_digest": "0" * 64,
    "width": WIDTH,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "image_size": 224,
    "crop": 0,
    "preprocess": "none",
}
RECORDED = Recorded("float32", "pillow")
COHORT = """\
[cohort]
name = "simulated"
table = "patients.csv"
images = ["images"]
id = "ID"
label = "LABEL"
positive = 1
negative = 0

[metadata.age]
column = "AGE"
kind = "number"
"""
TUNE = ["--outer-folds", "2", "--folds", "3", "--trials", "2", "--members", "1", "--epochs", "2"]
TUNE += ["--set", "components=64", "--set", "pooling=attention", "--set", "hidden=32", "--device", "cpu"]
_SAMPLED = 0.1  # seconds between two samples of the memory


@dataclass(frozen=True)
class Cost:
    """The cost of a command: seconds, and the peak memory of all its processes in MB."""

    command: str
    images: int
    wall: float
    processor: float
    peak_mb: float


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7], metavar="IMAGES")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    costs: list[Cost] = []
    for images in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            for cost in measure(Path(name), images):
                print(line(cost), file=sys.stderr if arguments.json else sys.stdout, flush=True)
                costs.append(cost)
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs]))


def line(cost: Cost) -> str:
    """Return one row of the table."""
    size = f"{cost.images:>12,}  {cost.command:24s}"
    return f"{size}{cost.wall:9.1f} s wall{cost.processor:9.1f} s processor{cost.peak_mb:9.0f} MB"


def measure(folder: Path, images: int) -> Iterator[Cost]:
    """Write a cohort and yield the cost of each command."""
    begun = time.monotonic(), time.process_time()
    cache = write_cohort(folder, images // PATIENTS)
    yield Cost("write", images, time.monotonic() - begun[0], time.process_time() - begun[1], 0)
    cohort, study = str(folder / "cohort.toml"), folder / "study"
    yield run(folder, "mil-cache info", images, ["cache", "info", str(cache)])
    yield run(folder, "mil-cache verify", images, ["cache", "verify", str(cache)])
    features = ["--features", str(cache)]
    yield run(folder, "mil-tune", images, ["tune", cohort, *features, "--study", str(study), *TUNE])
    seconds = trial_seconds(study)
    yield Cost("  one trial", images, seconds, seconds, 0)
    # Without --anonymous, mil-fit derives a slow key for each patient, half a second for ten patients.
    options = ["--study", str(study), *features, "--anonymous", "--device", "cpu"]
    yield run(folder, "mil-fit", images, ["fit", cohort, *options])
    bundle, output = str(study / "model"), ["--output", str(folder / "predictions.csv")]
    yield run(folder, "mil-predict", images, ["predict", bundle, cohort, *features, *output])
    yield run(folder, "mil-report", images, ["report", str(study)])
    yield Cost(f"  report of {(study / 'report.html').stat().st_size / 1e6:.1f} MB", images, 0, 0, 0)


def write_cohort(folder: Path, each: int) -> Path:
    """Write a cohort of PATIENTS with `each` images and its shards; return the folder of the cache."""
    (folder / "images").mkdir()
    (folder / "cohort.toml").write_text(COHORT)
    random = np.random.default_rng(0)
    with (folder / "patients.csv").open("w", newline="") as file:
        rows = ([name(patient), patient % 2, f"{random.normal(60, 10):.1f}"] for patient in range(PATIENTS))
        csv.writer(file).writerows([["ID", "LABEL", "AGE"], *rows])
    cache = FeatureCache.create(folder / "cache", "simulated", SPEC)
    count = min(SHARD_PATIENTS, -(-SHARD_IMAGES // each))
    noise = np.random.default_rng(1).standard_normal((2**16, WIDTH), dtype=np.float32).astype(np.float16)
    for first in range(0, PATIENTS, count):
        bags = [draw(patient, each, noise) for patient in range(first, min(first + count, PATIENTS))]
        content = encode_shard(bags, cache.spec_digest, 1, RECORDED)
        (cache.folder / f"{digest(content)}.h5").write_bytes(content)  # not flushed to the disk one by one
    return cache.folder


def name(patient: int) -> str:
    """Return a patient's id."""
    return f"P{patient:05d}"


def draw(patient: int, each: int, noise: np.ndarray) -> EmbeddedBag:
    """Return a bag of some rows of `noise` (n, D), with the signal of the patient's label."""
    random = np.random.default_rng(patient)
    signs = random.choice(
        np.array([-1, 1], dtype=np.float16), WIDTH
    )  # so that no two patients share an image
    first = random.integers(len(noise) - each)
    embeddings = noise[first : first + each] * signs
    embeddings[:, :8] += np.float16(SIGNAL * (patient % 2))
    digests = random.bytes(32 * each)
    images = tuple(
        StoredImage(f"{row:04d}.png", digests[32 * row : 32 * row + 32], 100_000, 1) for row in range(each)
    )
    return EmbeddedBag(name(patient), images, embeddings)


def run(folder: Path, label: str, images: int, arguments: Sequence[str]) -> Cost:
    """Run a command, and return its cost; the rest of the table is left out if it fails."""
    module, *options = arguments
    code = f"import sys; from mil_toolkit.cli.{module} import main; sys.exit(main(sys.argv[1:]))"
    begun, before = time.monotonic(), os.times()
    process = subprocess.Popen([sys.executable, "-c", code, *options], cwd=folder, stdout=subprocess.DEVNULL)
    peak = Peak(process.pid)
    if process.wait():
        raise SystemExit(f"{label} failed with exit code {process.returncode}.")
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(label, images, time.monotonic() - begun, processor, peak.stop())


class Peak:
    """Samples the memory of a process and its descendants until `stop`."""

    def __init__(self, root: int):
        self._root, self._highest, self._stopped = root, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> float:
        """Return the highest sum that was seen, in MB."""
        self._stopped.set()
        self._thread.join()
        return self._highest

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLED):
            self._highest = max(self._highest, sum(map(pss, descendants(self._root))))


def descendants(root: int) -> list[int]:
    """Return a process and all processes that it or they started."""
    found = [root]
    for process in found:  # grows while it is read
        for tasks in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += map(int, tasks.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def pss(process: int) -> float:
    """Return the proportional set size of a process in MB, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(row.split()[1]) for row in lines if row.startswith("Pss:")) / 1024


def trial_seconds(study: Path) -> float:
    """Return the median duration of the trials of a study, except the first of each search.

    The first trial of a search reads and projects the embeddings for all others.
    """
    storage = optuna.storages.RDBStorage(f"sqlite:///{study / 'optuna.db'}")
    searches = (storage.get_all_trials(summary._study_id)[1:] for summary in storage.get_all_studies())
    times = [trial.duration for trials in searches for trial in trials if trial.duration is not None]
    return statistics.median(duration.total_seconds() for duration in times)


if __name__ == "__main__":
    main()
