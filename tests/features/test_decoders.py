"""Decoder processes: the same bits as with threads, bounded memory, and errors instead of hanging."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_images import CONFIG, backbone, bags_of, break_some, draw, expected, run, same

from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import DataError, MilError, UsageError
from mil_toolkit.features import pipeline as pipeline_module
from mil_toolkit.features.decoders import IMAGES, RING, DecodedBatch, Decoders
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.pipeline import MOST_THREADS, BatchEmbedder, wants_processes
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.read_prepared import FileFacts, PreparedFile, UnreadableFile, read_prepared

LIGHT = {"PIL", "numpy", "simplejpeg", "mil_toolkit"}


@pytest.fixture(name="processes")
def _processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU's images be decoded by processes, as for a CUDA device."""
    monkeypatch.setattr(pipeline_module, "wants_processes", lambda *_: True)


def decoders(count: int = 2, batch: int = 4, config: ExtractionConfig = CONFIG) -> Decoders[Path]:
    return Decoders(config, None, count, batch, lambda path: path)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("built_once", "processes")
def test_processes_embed_the_same_bits_in_the_same_order(toml: Path) -> None:
    assert same(bags_of(run(toml, threads=1)), expected(toml))


@pytest.mark.usefixtures("built_once")
def test_unreadable_images_are_reported_as_with_threads(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of their batch keep their bits."""
    whole, messages = expected(toml), break_some(toml)
    with pytest.raises(DataError) as by_threads:
        run(toml, threads=1)
    threads = run(toml, threads=1, on_error="skip")
    (toml.parents[1] / "cache").rename(toml.parents[1] / "by threads")
    monkeypatch.setattr(pipeline_module, "wants_processes", lambda *_: True)
    with pytest.raises(DataError) as by_processes:
        run(toml, threads=1)
    processes = run(toml, threads=1, on_error="skip")
    assert str(by_processes.value) == str(by_threads.value)
    assert processes.skipped == threads.skipped and len(processes.skipped) == len(messages)
    kept = bags_of(processes)
    assert sum(map(len, kept.values())) == 11 - len(messages)
    for patient, bag in kept.items():
        assert all(np.array_equal(row, whole[patient][name]) for name, row in bag.items())


@pytest.mark.usefixtures("built_once", "processes")
@pytest.mark.parametrize("place", ["ftruncate", "_start"])
def test_missing_memory_for_processes_or_their_images_is_explained(
    place: str, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(os if place == "ftruncate" else Decoders, place, no_memory)
        with pytest.raises(
            UsageError, match=r"^Out of memory: .* GiB are free .* Use a --batch-size below 4\."
        ):
            run(toml, threads=1)
    assert same(bags_of(run(toml, threads=1)), expected(toml))


def test_batches_come_in_order_from_bounded_memory(tmp_path: Path) -> None:
    """More images than the memory has slots; a batch stays whole until the second one after it is taken."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        draw(path, number)
    paths.append(tmp_path / "broken.png")
    paths[-1].write_text("no image")
    pixels = [prepare(decode(path.read_bytes()), 32, 0, "none") for path in paths[:3]]
    pixels.append(np.zeros((32, 32, 3), np.uint8))
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(2 * IMAGES * RING + 3):
            taken.append(number)
            yield number

    batch_size, before, number = IMAGES + 1, None, 0
    with Decoders[int](CONFIG, None, 2, batch_size, lambda job: paths[job % 4]) as processes:
        for batch in processes.batches(jobs()):
            for shown in filter(None, (before, batch)):
                assert all(
                    np.array_equal(shown.pixels[row], pixels[job % 4]) for row, job in enumerate(shown.jobs)
                )
            assert [*batch.jobs] == [*range(number, number + len(batch.jobs))]
            assert [isinstance(file, UnreadableFile) for file in batch.files] == [
                job % 4 == 3 for job in batch.jobs
            ]
            assert batch.pixels.shape == (batch_size, 32, 32, 3)
            assert not batch.pixels[len(batch.jobs) :].any()
            before, number = batch, number + len(batch.jobs)
            assert len(taken) <= number + (RING - 1) * batch_size
    assert number == len(taken) == 2 * IMAGES * RING + 3


def test_a_worker_knows_of_a_file_what_a_thread_knows(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    Image.new("L", (40, 40)).save(tmp_path / "b.tif", compression="tiff_lzw")
    with decoders(1, 2) as processes, closing(processes.batches(iter(sorted(tmp_path.iterdir())))) as batches:
        batch = next(batches)
    known = [read_prepared(CONFIG, None, path) for path in batch.jobs]
    assert [file.facts for file in known if isinstance(file, PreparedFile)] == [*batch.files]


def test_a_process_that_decodes_imports_only_pillow_and_numpy(tmp_path: Path) -> None:
    """And what checks JPEGs for damage; by the modules of an interpreter that does what a worker does."""
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg")
    done = subprocess.run(
        [sys.executable, "-c", WORKER, tmp_path / "a.jpg"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == LIGHT


WORKER = """
import multiprocessing.spawn, os, sys
from multiprocessing import Pipe
from threading import Thread
import mil_toolkit.core.processes
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.decode_worker import Paths, decode_images
ours, theirs = Pipe()
descriptor = os.memfd_create("slots")
os.ftruncate(descriptor, 32 * 32 * 3)
worker = Thread(target=decode_images, args=(ExtractionConfig(image_size=32), None, theirs, descriptor))
worker.start()
ours.send(Paths(0, (sys.argv[1],), (None,)))
(facts,) = ours.recv()
assert facts.size == os.stat(sys.argv[1]).st_size
ours.close()
worker.join()
names = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
print(*(name for name in names if not name.startswith("_") and name != "cython_runtime"))
"""


SCRIPT = """
import torch
from pathlib import Path
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.decoders import Decoders
config = ExtractionConfig(image_size=32)
with Decoders(config, None, 1, 1, Path) as decoders:
    (batch,) = decoders.batches(iter([IMAGE]))
    (worker,) = decoders._workers.values()
    maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
    heavy = [name for name in ("torch", "h5py", "scipy", "pandas") if f"/{name}/" in maps]
    print(*batch.jobs, *heavy, "/numpy/" in maps)
import __main__
assert __main__.config is config
"""


def test_a_script_needs_no_protection_of_its_main_module(tmp_path: Path) -> None:
    """Also one that is read from a pipe; a worker loads none of the libraries that the script does."""
    draw(tmp_path / "a.png", 1)
    script = SCRIPT.replace("IMAGE", repr(str(tmp_path / "a.png")))
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "a.png"), "True"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_decoder_is_an_error_and_all_others_end(tmp_path: Path, number: signal.Signals) -> None:
    """It names the signal, the images that were being read, and what to do."""
    draw(tmp_path / "a.png", 1)
    jobs = (tmp_path / "a.png" for _ in range(100))
    message = (
        rf"read some of .*a\.png.*: it was killed by {number.name}, .* with mil-extract --workers, now 2\."
    )
    with decoders() as processes, closing(processes.batches(jobs)) as batches:
        next(batches)
        ids = [worker.process.pid for worker in processes._workers.values()]
        assert all(process and is_running(process) for process in ids)
        os.kill(ids[1] or 0, number)
        with pytest.raises(UsageError, match=message):
            list(batches)
    assert not any(process and is_running(process) for process in ids)


@pytest.mark.usefixtures("built_once", "processes")
def test_a_run_whose_decoder_is_killed_can_be_repeated(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Decoders._start

    def start_and_kill(processes: Decoders[Path]) -> None:
        start(processes)
        (worker,) = processes._workers.values()
        os.kill(worker.process.pid or 0, signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(Decoders, "_start", start_and_kill)
        with pytest.raises(UsageError, match="killed by SIGKILL"):
            run(toml, threads=1)
    assert same(bags_of(run(toml, threads=1)), expected(toml))


def test_a_decoder_that_fails_is_an_error(tmp_path: Path) -> None:
    """Of the program; a user's image never makes it fail."""
    draw(tmp_path / "a.png", 1)
    broken = ExtractionConfig(image_size=32, preprocess="unheard of")
    with (
        decoders(config=broken) as processes,
        closing(processes.batches(iter([tmp_path / "a.png"]))) as batches,
        pytest.raises(MilError, match=r"a\.png, with exit code 1; the reason is above\."),
    ):
        next(batches)


@pytest.mark.parametrize(
    ("device", "readers", "processes"),
    [("cpu", 64, False), ("cuda", 1, False), ("cuda", MOST_THREADS, False), ("cuda", MOST_THREADS + 1, True)],
)
def test_processes_are_for_many_readers_of_a_card(device: str, readers: int, processes: bool) -> None:
    assert wants_processes(torch.device(device), readers) is processes


class _Log:
    """A stand-in for `Transfer` that computes each embedding only when it is waited for, from the pixels."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        number = int(pixels[0, 0, 0, 0])
        self.events.append(f"begin {number}")

        def finish() -> np.ndarray:
            self.events.append(f"finish {number}")
            return pixels.reshape(len(pixels), -1)[:, :1].astype(np.float16)

        return finish


def test_a_batch_is_begun_before_the_embeddings_of_the_one_before_are_waited_for() -> None:
    """Memory that is used again as `Decoders` says is not overwritten too early."""
    ring, log = np.zeros((3, 2, 1, 1, 3), np.uint8), _Log()
    facts = FileFacts(b"", 0, 0, (), None, (0,))

    def batches() -> Iterator[DecodedBatch[Any]]:
        for number in range(1, 8):
            ring[number % 3] = number
            yield DecodedBatch([None, None], [facts, UnreadableFile("")], ring[number % 3])

    embed = BatchEmbedder(backbone("resnet18", "random"), torch.device("cpu"), "float32", 2, 1)
    embed.__dict__["_transfer"] = log
    embedded = list(embed.one_late(batches()))
    values = [[row.tolist() for row in batch.embeddings] for batch in embedded]
    assert values == [[[[number]]] for number in range(1, 8)]  # one orientation of one image
    assert log.events[:4] == ["begin 1", "begin 2", "finish 1", "begin 3"] and log.events[-1] == "finish 7"
