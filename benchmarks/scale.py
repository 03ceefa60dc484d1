"""Measure every command on cohorts of 10,000 patients with 10, 100 and 1,000 images each.

    python benchmarks/scale.py [--sizes 100000 1000000 10000000] [--folder /tmp/mil-scale] [--json]

The embeddings are random, 384 columns wide, in shards of the toolkit's own format. A weak signal is added to
the embeddings of positive patients. Each command runs in a process of its own, of which the table shows wall
time, processor time and peak memory: the sum over the whole process tree of the proportional set size (PSS),
sampled ten times a second, less often in commands of more than 20 seconds. `mil-tune` runs one search at a
time, so that the processor time of one trial is what the process used between the beginning and the end of
the second trial of the search on all patients. The first one also reads and projects the embeddings.

Ten million images take 8.5 GB in `--folder` and another 2.6 GB for the temporary file of `mil-tune`. Every
row is saved in `rows.jsonl` of that folder as soon as it is measured: a run that was stopped continues with
the command that it lost. The cohorts are removed as soon as all their rows are there.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
    "weights": "imported from bags",
    "seed": None,
    "weight_digest": None,
    "width": WIDTH,
    "mean": None,
    "std": None,
    "image_size": 0,
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
TUNE = ["--outer-folds", "2", "--folds", "2", "--trials", "2", "--members", "1", "--epochs", "1"]
TUNE += ["--set", "components=64", "--set", "pooling=attention", "--set", "hidden=32", "--device", "cpu"]
TUNE += ["--workers", "1"]
ROWS = "rows.jsonl"
_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLED, _SAMPLES = 0.1, 200  # seconds between two samples, which grow with the time of the command


@dataclass(frozen=True)
class Cost:
    """The cost of a command: seconds, and the peak memory of all its processes in MB.

    bytes: of the file that it wrote, where that is of interest
    """

    command: str
    images: int
    wall: float
    processor: float
    peak_mb: float
    bytes: int = 0


Step = Callable[[], Iterator[Cost]]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7], metavar="IMAGES")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mil-scale")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    costs: list[Cost] = []
    for images in arguments.sizes:
        for cost in measure(arguments.folder, images):
            print(line(cost), file=sys.stderr if arguments.json else sys.stdout, flush=True)
            costs.append(cost)
        shutil.rmtree(arguments.folder / f"{images}", ignore_errors=True)
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs]))


def line(cost: Cost) -> str:
    """Return one row of the table."""
    size = f"{cost.images:>12,}  {cost.command:18s}"
    written = f"  {cost.bytes / 1e6:.1f} MB written" if cost.bytes else ""
    seconds = f"{cost.wall:9.1f} s wall{cost.processor:9.1f} s processor"
    return f"{size}{seconds}{cost.peak_mb:9.0f} MB{written}"


def measure(folder: Path, images: int) -> Iterator[Cost]:
    """Yield the cost of each command: those that `folder` has already, and else as they are measured."""
    rows = folder / ROWS
    known = [Cost(**json.loads(row)) for row in rows.read_text().splitlines()] if rows.exists() else []
    saved = {cost.command: cost for cost in known if cost.images == images}
    for name, step in steps(folder / f"{images}", images).items():
        if name not in saved:
            for cost in step():
                saved[cost.command] = cost
                with rows.open("a") as file:
                    file.write(json.dumps(asdict(cost)) + "\n")
        yield saved[name]


def steps(folder: Path, images: int) -> dict[str, Step]:
    """Return what measures each row; the step of mil-tune also measures the row after it."""
    cohort, study, cache = str(folder / "cohort.toml"), folder / "study", folder / "cache"
    bundle, predictions = str(study / "model"), folder / "predictions.csv"

    def commanded(name: str, *options: str, output: Path | None = None) -> Step:
        def step() -> Iterator[Cost]:
            features = next((cache / "simulated").iterdir())
            given = [option.replace("FEATURES", str(features)) for option in options]
            cost, _ = run(folder, name, images, given)
            yield replace(cost, bytes=output.stat().st_size if output else 0)

        return step

    def write() -> Iterator[Cost]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        begun = time.monotonic(), time.process_time()
        size = write_cohort(folder, images // PATIENTS)
        yield Cost("write", images, time.monotonic() - begun[0], time.process_time() - begun[1], 0, size)

    def tune() -> Iterator[Cost]:
        shutil.rmtree(study, ignore_errors=True)
        features = str(next((cache / "simulated").iterdir()))
        options = ["tune", cohort, "--features", features, "--study", str(study), *TUNE]
        cost, samples = run(folder, "mil-tune", images, options)
        yield trial_cost(study, images, samples)
        yield cost

    # Without --anonymous, mil-fit derives a slow key for each patient, half a second for ten patients.
    fit = ["fit", cohort, "--study", str(study), "--features", "FEATURES", "--anonymous", "--device", "cpu"]
    predict = ["predict", bundle, cohort, "--features", "FEATURES", "--output", str(predictions)]
    return {
        "write": write,
        "mil-cache info": commanded("mil-cache info", "cache", "info", "FEATURES"),
        "mil-cache verify": commanded("mil-cache verify", "cache", "verify", "FEATURES"),
        "mil-tune": tune,
        "  one trial": tune,
        "mil-fit": commanded("mil-fit", *fit),
        "mil-predict": commanded("mil-predict", *predict, output=predictions),
        "mil-report": commanded("mil-report", "report", str(study), output=study / "report.html"),
    }


def write_cohort(folder: Path, each: int) -> int:
    """Write a cohort of PATIENTS with `each` images and its shards; return the size of the shards."""
    (folder / "images").mkdir()
    (folder / "cohort.toml").write_text(COHORT)
    random = np.random.default_rng(0)
    with (folder / "patients.csv").open("w", newline="") as file:
        rows = ([name(patient), patient % 2, f"{random.normal(60, 10):.1f}"] for patient in range(PATIENTS))
        csv.writer(file).writerows([["ID", "LABEL", "AGE"], *rows])
    cache = FeatureCache.create(folder / "cache", "simulated", SPEC)
    count, size = min(SHARD_PATIENTS, -(-SHARD_IMAGES // each)), 0
    noise = np.random.default_rng(1).standard_normal((2**16, WIDTH), dtype=np.float32).astype(np.float16)
    for first in range(0, PATIENTS, count):
        bags = [draw(patient, each, noise) for patient in range(first, min(first + count, PATIENTS))]
        content = encode_shard(bags, cache.spec_digest, 1, RECORDED)
        (cache.folder / f"{digest(content)}.h5").write_bytes(content)  # not flushed to the disk one by one
        size += len(content)
    return size


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


@dataclass(frozen=True)
class Sample:
    """What a process and its descendants used: processor seconds until a time, and memory at that time."""

    time: float
    processor: float
    megabytes: float


def run(folder: Path, label: str, images: int, arguments: Sequence[str]) -> tuple[Cost, list[Sample]]:
    """Run a command, and return its cost and samples; the rest of the table is left out if it fails."""
    module, *options = arguments
    code = f"import sys; from mil_toolkit.cli.{module} import main; sys.exit(main(sys.argv[1:]))"
    begun, before = time.monotonic(), os.times()
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options], cwd=folder, stdout=subprocess.DEVNULL, env=environment
    )
    sampler = Sampler(process.pid)
    process.wait()
    after, samples = os.times(), sampler.stop()
    if process.returncode:
        raise SystemExit(f"{label} failed with exit code {process.returncode}.")
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    peak = max((sample.megabytes for sample in samples), default=0.0)
    return Cost(label, images, time.monotonic() - begun, processor, peak), samples


class Sampler:
    """Samples a process and its descendants until `stop`."""

    def __init__(self, root: int):
        self._root, self._samples, self._stopped = root, list[Sample](), threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> list[Sample]:
        """Return the samples."""
        self._stopped.set()
        self._thread.join()
        return self._samples

    def _sample(self) -> None:
        begun = time.monotonic()
        while not self._stopped.wait(max(_SAMPLED, (time.monotonic() - begun) / _SAMPLES)):
            processes = descendants(self._root)
            used = sum(map(processor_seconds, processes))
            self._samples.append(Sample(time.time(), used, sum(map(pss, processes))))


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


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def trial_cost(study: Path, images: int, samples: Sequence[Sample]) -> Cost:
    """Return the cost of the second trial of the search on all patients."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{study / 'optuna.db'}")
    (search,) = (summary for summary in storage.get_all_studies() if summary.study_name == "final")
    trial = storage.get_all_trials(search._study_id)[1]
    assert trial.datetime_start is not None and trial.datetime_complete is not None
    bounds = trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()
    within = [sample for sample in samples if bounds[0] <= sample.time <= bounds[1]]
    used = np.interp(bounds, [sample.time for sample in samples], [sample.processor for sample in samples])
    peak = max((sample.megabytes for sample in within), default=0.0)
    return Cost("  one trial", images, bounds[1] - bounds[0], float(used[1] - used[0]), peak)


if __name__ == "__main__":
    main()
