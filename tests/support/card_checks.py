"""Checks of a card: each computes on it and returns figures with the limits that they have to keep.

`benchmarks/cuda.py` runs them on a card and prints the figures; `tests/cuda` asserts the limits, with small
sizes also on the CPU, so that no line of them is untried.
"""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Settings
from mil_toolkit.core.devices import pick_device
from mil_toolkit.core.errors import OutOfMemory, UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from support.card_data import CPU, Place, draw_jpegs, draw_pixels
from support.card_graphs import graphs, together, waiting
from support.card_limits import Check, Figures, Limit, same
from support.card_training import extracted, gradients, lockstep, memory, steps, synchronisations
from support.paths import ROOT


def embeddings(place: Place) -> Figures:
    """Compare embeddings with those of the CPU in float32, and between precisions and orders of a batch."""
    count, batch = place.size(512, 8), place.size(64, 4)
    backbone, side = place.backbone(), place.extraction.side
    pixels = draw_pixels(count, side)

    @torch.inference_mode()
    def embed(device: torch.device, dtype: torch.dtype, images: Tensor) -> Tensor:
        embedder = Embedder(backbone, device, dtype, (batch, side))
        parts = (part.to(device) for part in images.split(batch))  # before the result is rounded to float16
        return torch.cat([embedder.network(embedder.normalise(part)).cpu() for part in parts]).double()

    exact, own = embed(CPU, torch.float32, pixels), embed(place.device, torch.float32, pixels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    shuffled = embed(place.device, torch.float32, pixels[order])
    error = (own - exact).norm(dim=1) / exact.norm(dim=1)
    reduced = embed(place.device, torch.bfloat16, pixels)
    return {
        "float32_cosine": Limit(worst_cosine(own, exact), least=0.999999),
        "float32_error": Limit(float(error.max()), most=1e-4),
        "bfloat16_cosine": Limit(worst_cosine(reduced, own), least=0.995),
        "bfloat16_across_architectures_cosine": Limit(
            worst_cosine(reduced, embed(CPU, torch.bfloat16, pixels)), least=0.99
        ),
        "float16_cosine": Limit(worst_cosine(embed(place.device, torch.float16, pixels), own), least=0.9999),
        "permuted": same(own[order].numpy(), shuffled.numpy()),
    }


def worst_cosine(one: Tensor, other: Tensor) -> float:
    """Return the least cosine between rows (n, D)."""
    return float(torch.nn.functional.cosine_similarity(one, other).min())


def extraction(place: Place) -> Figures:
    """Extract twice by processes of their own, and once more after a kill: the same bits."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    toml = draw_jpegs(folder, place.size(192, 3), place.size(16, 2), place.extraction.side)
    digests = []
    runs = (False, True) if place.small else (False, False, True)
    for number, kill in enumerate(runs):
        root = folder / f"cache{number}"
        process = start_extraction(place, toml, root)
        if kill:
            kill_after_the_first_shard(process, root)
            process = start_extraction(place, toml, root)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"mil-extract ended with {process.returncode}"
        digests.append(FeatureCache.open(output.strip()).digest())
    return {"twice": same(digests[0], digests[1]), "killed_and_resumed": same(digests[0], digests[-1])}


def start_extraction(place: Place, toml: Path, root: Path) -> "subprocess.Popen[str]":
    """Start mil-extract."""
    config = place.extraction
    options = ["--backbone", config.backbone, "--weights", config.weights]
    options += ["--image-size", str(config.side), "--cache", str(root), "--device", str(place.device)]
    code = "import sys; from mil_toolkit.cli.extract import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(toml), *options], stdout=-1, text=True, env=environment
    )


def kill_after_the_first_shard(process: "subprocess.Popen[str]", root: Path) -> None:
    """Kill mil-extract once it has published something, or wait for its end if it is faster."""
    while process.poll() is None and not [*root.rglob("*.h5")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def out_of_memory(place: Place) -> Figures:
    """Extract with too little memory: the error names the option and the memory, and the next run works."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    cohort = read_cohort(draw_jpegs(folder, 4, place.size(64, 2), place.extraction.side))
    options = {"device": str(place.device), "batch_size": place.size(256, 4)}
    message = ""
    with little_memory(place):
        try:
            extract(cohort, place.extraction, folder / "cache", **options)  # type: ignore[arg-type]
        except OutOfMemory as error:
            message = str(error)
    done = extract(cohort, place.extraction, folder / "cache", **options)  # type: ignore[arg-type]
    return {
        "named": same("--batch-size" in message and "GiB" in message, True),
        "next_run": same(done.extracted, done.images),
    }


@contextlib.contextmanager
def little_memory(place: Place) -> Iterator[None]:
    """Leave one per cent of the card's memory; on the CPU, let the network raise the error of a card."""
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.01, place.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place.device)
        return
    forward = Embedder.forward

    def lacks_memory(self: Embedder, pixels: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    Embedder.forward = lacks_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        Embedder.forward = forward  # type: ignore[method-assign]


def ranks(place: Place) -> Figures:
    """Pick the device as the second of two processes of torchrun: the message names the variable."""
    name = "cpu" if place.device.type == "cpu" else "auto"
    log = io.StringIO()
    handler, logger = logging.StreamHandler(log), logging.getLogger("mil_toolkit")
    before, level = os.environ.get("LOCAL_RANK"), logger.level
    os.environ["LOCAL_RANK"] = "1"
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        picked = str(pick_device(name))
    except UsageError as error:
        picked = str(error)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        del os.environ["LOCAL_RANK"]
        if before is not None:
            os.environ["LOCAL_RANK"] = before
    several = place.device.type == "cuda" and torch.cuda.device_count() > 1
    expected = "cuda:1" if several else str(place.device)
    said = "LOCAL_RANK is 1" in log.getvalue() or several or place.device.type == "cpu"
    return {"device": same(picked, expected), "message": same(said, True)}


def workers(place: Place) -> Figures:
    """Tune with two workers on one card: the study completes, with the result of one worker."""
    from mil_toolkit.study.tune import tune  # needs optuna, which the machine may lack

    folder = Path(tempfile.mkdtemp(dir=place.folder))
    cohort = read_cohort(draw_jpegs(folder, 18, 2, place.extraction.side))
    cache = extracted(place, cohort, folder)
    settings: Settings = {"epochs": (2,), "hidden": (32,), "pooling": ("attention",)}
    config = StudyConfig(trials=2, folds=2, outer_folds=2, members=2, settings=settings)
    values = []
    for count in (1, 2):
        how = RunConfig(workers=count)
        tuned = tune(cohort, cache, folder / f"study{count}", config, str(place.device), how)
        values.append((tuned.best.epoch, tuned.best.config, tuned.trials))
    return {"completed": same(values[1][2], 6), "same_choice": same(values[0], values[1])}


CHECKS: Mapping[str, Check] = {
    "embeddings": embeddings,
    "lockstep": lockstep,
    "synchronisations": synchronisations,
    "graphs": graphs,
    "waiting": waiting,
    "together": together,
    "gradients": gradients,
    "memory": memory,
    "steps": steps,
    "out_of_memory": out_of_memory,
    "ranks": ranks,
    "extraction": extraction,
    "workers": workers,
}
