"""Faults in mil-extract: runs that are killed or stopped, out of space, or that run side by side.

In each case nothing half-written is read, nothing published is lost, and a new run completes the cache.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import CommandServer, ended, read_only, serving, stopped, wait_until

from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.upkeep import prune, verify

KILLS = int(os.environ.get("MIL_FAULT_KILLS", "12"))  # tox -e faults: 200
OPTIONS = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--device", "cpu"]
OPTIONS += ["--precision", "float32", "--batch-size", "4", "--workers", "1", "--json"]
PATIENTS = 14
Bits = dict[str, list[tuple[str, bytes]]]


@dataclass(frozen=True)
class Server(CommandServer):
    """Starts real processes that run mil-extract on the cohort."""

    toml: Path
    folder: Path

    def start(
        self, cache: Path, *more: str, fault: Sequence[object] = (), toml: Path | None = None, **env: str
    ) -> int:
        """Start a process that extracts into `cache` and return its id; its output goes to `cache`.log."""
        argv = [str(toml or self.toml), "--cache", str(cache), *OPTIONS, *more]
        return self.ask(argv=argv, env=env, log=str(self.log(cache, more)), fault=fault)

    @staticmethod
    def log(cache: Path, more: Sequence[str] = ()) -> Path:
        return cache.with_suffix(".".join(["", *more, "log"]).replace("/", "of"))

    def run(self, cache: Path, *more: str, **options: object) -> int:
        return self.wait(self.start(cache, *more, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("faults")
    toml = draw_cohort(folder / "cohort", patients=PATIENTS, unlabelled=0, image_size=32, images=(3, 5))
    long_ago = time.time() - 1e6
    for path in toml.parent.rglob("*.jpg"):
        os.utime(path, (long_ago, long_ago))
    with serving("extract_server.py") as process:
        yield Server(process, toml, folder)


@pytest.fixture(scope="module", name="whole")
def _whole(server: Server) -> Bits:
    """The result of an uninterrupted run."""
    cache = server.folder / "whole"
    assert server.run_here((server.toml, "--cache", cache, *OPTIONS), server.log(cache)) == 0
    return bits(only(cache))


def only(cache: Path) -> Path:
    """The folder of the only spec."""
    (folder,) = cache.glob("*/*")
    return folder


def bits(folder: Path) -> Bits:
    """Each image's name and the bytes of its embedding, by patient."""
    cache = FeatureCache.open(folder)
    bags = cache.bags(cache.patient_ids)
    rows = iter(zip(bags.image_names, (row.tobytes() for row in bags.instances.numpy()), strict=True))
    sizes = zip(bags.patient_ids, bags.sizes.tolist(), strict=True)
    return {patient: [next(rows) for _ in range(size)] for patient, size in sizes}


def published(cache: Path) -> Bits:
    """What can be read from a cache whose writer may have been killed at any moment."""
    folders = list(cache.glob("*/*/spec.json"))
    return bits(folders[0].parent) if folders else {}


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".tmp-*"))


# Killed runs.


def test_random_kills_lose_only_the_shard_in_progress(server: Server, whole: Bits) -> None:
    """Many chains of runs on one cache, each run killed at a random moment until one completes.

    A kill counts if it left some patients published and others not.
    """
    source, counted, runs, chains = random.Random(0), 0, 0, 0
    while counted < KILLS:
        cache = server.folder / f"chain{chains}"
        chains += 1
        code, before = -signal.SIGKILL, Bits()
        while code:
            process = server.start(cache)
            await_moment(process, cache, source)
            os.kill(process, signal.SIGKILL)
            runs, code = runs + 1, server.wait(process)
            assert code in (0, -signal.SIGKILL), server.log(cache).read_text()
            after = published(cache)
            assert before.items() <= after.items() <= whole.items()
            counted += bool(code) and 0 < len(after) < len(whole)
            before = after
        assert published(cache) == whole and not leftovers(cache)
        assert verify(only(cache)) == len(list(only(cache).glob("*.h5")))
        shutil.rmtree(cache)
    print(f"{counted} kills that count in {runs} runs; {chains} chains completed.")


def await_moment(process: int, cache: Path, source: random.Random) -> None:
    """Wait for a random number of further shards, then for about the time of one or two more."""
    target = len(glob(f"{cache}/*/*/*.h5")) + source.randint(0, 3)
    while len(glob(f"{cache}/*/*/*.h5")) < target and not ended(process):
        time.sleep(0.005)
    time.sleep(source.uniform(0.0, 0.05))


STEPS = ["create", "half a write", "write", "fsync", "rename", "fsync folder"]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_after_every_step_of_a_publish(
    server: Server, whole: Bits, step: str, count: int, tmp_path: Path
) -> None:
    """When the spec, the first shard or a later shard is published."""
    cache = tmp_path / "cache"
    assert server.run(cache, fault=["kill", step, count]) == -signal.SIGKILL
    assert published(cache).items() <= whole.items()
    assert bool(leftovers(cache)) == (step not in ("rename", "fsync folder") and not renamed(step, count))
    assert server.run(cache) == 0
    assert bits(only(cache)) == whole and not leftovers(cache)


def renamed(step: str, count: int) -> bool:
    """Whether the call was the fsync of a folder, which comes after the rename: every second fsync."""
    return step == "fsync" and count % 2 == 0


def test_the_temporary_file_of_a_living_writer_is_kept(server: Server, whole: Bits, tmp_path: Path) -> None:
    """Another run completes while the writer is stopped; then the writer continues and completes."""
    cache = tmp_path / "cache"
    process = server.start(cache, fault=["stop", "write", 3])
    wait_until(lambda: stopped(process))
    (temporary,) = leftovers(cache)
    assert server.run(cache, "--batch-size", "4") == 0
    assert leftovers(cache) == [temporary] and bits(only(cache)) == whole
    os.kill(process, signal.SIGCONT)
    assert server.wait(process) == 0
    assert not leftovers(cache) and bits(only(cache)) == whole


# Runs without space, permissions or images.


def copied(server: Server, tmp_path: Path) -> Path:
    """A copy of the cohort."""
    shutil.copytree(server.toml.parent, tmp_path / "cohort")
    return tmp_path / "cohort" / server.toml.name


def test_a_full_disk_is_reported_and_published_shards_stay(
    server: Server, whole: Bits, tmp_path: Path
) -> None:
    """Simulated by a limit on file sizes that the shard of a larger patient exceeds."""
    toml, cache = copied(server, tmp_path), tmp_path / "cache"
    last = max(whole)
    (folder,) = toml.parent.rglob(f"{last}/")
    image = next(folder.iterdir())
    for number in range(40):
        shutil.copy2(image, folder / f"more{number}.jpg")
    assert server.run(cache, toml=toml, fault=["limit", "", 40_000]) == 2
    said = server.log(cache).read_text()
    assert (
        "cannot be written: File too large. Files that were complete are kept." in said
        and "Traceback" not in said
    )
    assert {**published(cache)}.items() <= whole.items() and len(published(cache)) >= 2
    assert not leftovers(cache)
    assert server.run(cache, toml=toml) == 0 and len(published(cache)[last]) >= 40


def test_a_read_only_folder_is_reported(server: Server, whole: Bits, tmp_path: Path) -> None:
    """A complete cache can be used as before; an incomplete one cannot be written."""
    toml, cache = copied(server, tmp_path), tmp_path / "cache"
    assert server.run(cache, "--shard", "1/2", toml=toml) == 0
    with read_only(only(cache)):
        assert server.run(cache, "--shard", "1/2", toml=toml) == 0
        assert server.run(cache, toml=toml) == 2
        said = server.log(cache).read_text()
        assert "cannot be written: " in said and "Traceback" not in said
        assert published(cache).items() <= whole.items()
    with read_only(tmp_path / "cohort"):  # as is common for input
        assert server.run(cache, toml=toml) == 0 and published(cache) == whole


def test_an_image_that_vanishes_mid_run_is_named(server: Server, whole: Bits, tmp_path: Path) -> None:
    """The other patients are published, and the next run completes without the image."""
    toml, cache = copied(server, tmp_path), tmp_path / "cache"
    process = server.start(cache, toml=toml, fault=["stop", "rename", 2])
    wait_until(lambda: stopped(process))
    last = max(whole)
    gone = next(toml.parent.rglob(f"{last}/*.jpg"))
    gone.unlink()
    os.kill(process, signal.SIGCONT)
    assert server.wait(process) == 3
    said = server.log(cache).read_text()
    assert f"{gone}: No such file or directory" in said and "Traceback" not in said
    assert published(cache) == {patient: bag for patient, bag in whole.items() if patient != last}
    assert server.run(cache, toml=toml) == 0
    left = [row for row in whole[last] if row[0] != gone.name]
    assert published(cache) == whole | {last: left}


# Runs side by side.


@pytest.mark.parametrize("shares", [1, 8])
def test_eight_writers_at_once_and_a_reader(server: Server, whole: Bits, shares: int, tmp_path: Path) -> None:
    """Each with all patients or with its share. No patient is lost or doubled, and no reader fails."""
    cache, options = tmp_path / "cache", [("--shard", f"{index % shares + 1}/{shares}") for index in range(8)]
    if shares == 1:
        options = [
            (*each, "--batch-size", "4", "--workers", str(index)) for index, each in enumerate(options)
        ]
    writers = [server.start(cache, *each) for each in options]
    seen = 0
    while not all(map(ended, writers)):
        now = published(cache)
        assert len(now) >= seen and now.items() <= whole.items()
        seen = len(now)
    assert [server.wait(each) for each in writers] == [0] * 8
    assert published(cache) == whole and not leftovers(cache)
    found = FeatureCache.open(only(cache))
    assert len(found.patient_ids) == len({*found.patient_ids}) == PATIENTS
    prune(only(cache))
    assert published(cache) == whole
    if shares == 8:
        done = [json.loads(server.log(cache, each).read_text().splitlines()[-1]) for each in options]
        assert sum(each["extracted"] for each in done) == sum(map(len, whole.values()))


def test_a_slurm_array_divides_the_patients(server: Server, whole: Bits, tmp_path: Path) -> None:
    """And so do the tasks of a Slurm job."""
    for name, variables in (
        ("array", ["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"]),
        ("job", ["SLURM_PROCID", "SLURM_NTASKS"]),
    ):
        cache, extracted = tmp_path / name, 0
        for task in range(3):
            env = dict(zip(variables, (str(task), "3"), strict=True))
            assert server.run(cache, "--shard", "auto", **env) == 0
            extracted += json.loads(server.log(cache, ["--shard", "auto"]).read_text().splitlines()[-1])[
                "extracted"
            ]
        assert published(cache) == whole and extracted == sum(map(len, whole.values()))


def test_torchrun_divides_the_patients(server: Server, whole: Bits, tmp_path: Path) -> None:
    """The real torchrun, with two processes."""
    script = tmp_path / "extract.py"
    script.write_text("import sys\nfrom mil_toolkit.cli.extract import main\nsys.exit(main())\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    cache = tmp_path / "cache"
    command = [*launcher, str(script), str(server.toml), "--cache", str(cache), *OPTIONS, "--shard", "auto"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(each["patients"] for each in told) != [0, PATIENTS]
    assert sum(each["extracted"] for each in told) == sum(map(len, whole.values()))
    assert published(cache) == whole
