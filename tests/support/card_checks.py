"""Checks of a card: each computes on it and returns figures with the limits that they have to keep.

`benchmarks/cuda.py` runs them on a card and prints the figures; `tests/cuda` asserts the limits, with small sizes
also on the CPU, so that no line of them is untried.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.backbones.embedder import Embedder, Normaliser
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config import (
    OPTIMIZER_NAMES,
    POOLING_NAMES,
    FinetuneConfig,
    HeadConfig,
    RunConfig,
    StudyConfig,
)
from mil_toolkit.core.devices import pick_device
from mil_toolkit.core.errors import OutOfMemory, UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.training.backpropagation import Halves, Spill, backpropagate
from mil_toolkit.training.checkpoints import publish_tensors, read_tensors
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit, run_trial
from support.card_data import CPU, Place, draw_folds, draw_jpegs, draw_patients, draw_pixels
from support.paths import ROOT


class Limit(NamedTuple):
    """A figure, and the least or the most that it may be."""

    value: float
    least: float | None = None
    most: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the figure is within its limits; one that is not a number is not."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)


Figures = Mapping[str, Limit]
Check = Callable[[Place], Figures]


def same(one: object, other: object) -> Limit:
    """Return a figure that is 1 for equal bits, and has to be."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return Limit(float(one.tobytes() == other.tobytes()), least=1)
    return Limit(float(one == other), least=1)


def embeddings(place: Place) -> Figures:
    """Compare embeddings with those of the CPU in float32, and between precisions and orders of a batch."""
    count, batch = place.size(512, 8), place.size(64, 4)
    backbone, side = place.backbone(), place.extraction.image_size
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
    return {
        "float32_cosine": Limit(worst_cosine(own, exact), least=0.999999),
        "float32_error": Limit(float(error.max()), most=1e-4),
        "bfloat16_cosine": Limit(worst_cosine(embed(place.device, torch.bfloat16, pixels), own), least=0.995),
        "float16_cosine": Limit(worst_cosine(embed(place.device, torch.float16, pixels), own), least=0.9999),
        "permuted": same(own[order].numpy(), shuffled.numpy()),
    }


def worst_cosine(one: Tensor, other: Tensor) -> float:
    """Return the least cosine between rows (n, D)."""
    return float(torch.nn.functional.cosine_similarity(one, other).min())


def extraction(place: Place) -> Figures:
    """Extract twice by processes of their own, and once more after a kill: the same bits."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    toml = draw_jpegs(folder, place.size(192, 3), place.size(16, 2), place.extraction.image_size)
    digests = []
    for number, kill in enumerate((False, False, True)):
        root = folder / f"cache{number}"
        process = start_extraction(place, toml, root)
        if kill:
            kill_after_the_first_shard(process, root)
            process = start_extraction(place, toml, root)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"mil-extract ended with {process.returncode}"
        digests.append(FeatureCache.open(output.strip()).digest())
    return {"twice": same(digests[0], digests[1]), "killed_and_resumed": same(digests[0], digests[2])}


def start_extraction(place: Place, toml: Path, root: Path) -> "subprocess.Popen[str]":
    """Start mil-extract."""
    config = place.extraction
    options = ["--backbone", config.backbone, "--weights", config.weights]
    options += ["--image-size", str(config.image_size), "--cache", str(root), "--device", str(place.device)]
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


def lockstep(place: Place) -> Figures:
    """Compare training of every pooling and optimiser with the CPU, and with itself."""
    patients = draw_patients(place.size(90, 12), place.size(2000, 60), place.size(512, 12))
    trains, figures = draw_folds(patients, 3), dict[str, Limit]()
    for pooling in POOLING_NAMES:
        for optimizer in OPTIMIZER_NAMES:
            config = HeadConfig(pooling=pooling, optimizer=optimizer, epochs=2, hidden=32, components=16)
            for dtype, most in ((torch.float32, 1e-3), (torch.bfloat16, 0.05)):
                devices = (CPU, place.device, place.device)
                exact, own, again = (trial_logits(patients, trains, config, each, dtype) for each in devices)
                name = f"{pooling}_{optimizer}_{str(dtype).removeprefix('torch.')}"
                figures[name] = Limit(float(np.abs(own - exact).max()), most=most)
                figures[f"{name}_again"] = same(own, again)
    return figures


def trial_logits(
    patients: Patients,
    trains: Sequence[np.ndarray],
    config: HeadConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> np.ndarray:
    """Return the logits of all epochs of a trial."""
    inputs = Inputs(patients, trains, device, dtype)
    return run_trial(inputs, config, "balanced_log_loss", (0,)).curves.logits


def synchronisations(place: Place) -> Figures:
    """Train warm epochs in which nothing may wait for the card, and count copies to the host."""
    patients = draw_patients(place.size(142, 12), place.size(13_453, 60), place.size(512, 12))
    inputs = Inputs(patients, draw_folds(patients, 3), place.device)
    epochs = train(
        inputs, HeadConfig(epochs=4, components=place.size(64, 8)), [Member(0, 1), Member(1, 2)], 0
    )
    next(epochs)
    with synchronising_is_an_error(place):
        next(epochs)
    with torch.profiler.profile(acc_events=True) as profile:
        next(epochs)
        place.wait()
    copies = sum("Memcpy DtoH" in event.name for event in profile.events() or ())
    return {"copies_to_the_host": Limit(float(copies), most=0)}


@contextlib.contextmanager
def synchronising_is_an_error(place: Place) -> Iterator[None]:
    """Let operations that wait for the card raise an error."""
    if place.device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients(place: Place) -> Figures:
    """Compare the gradient of fine-tuning in chunks with plain autograd, by tensor."""
    count, side = place.size(200, 6), place.size(64, 32)
    backbone, pixels = place.backbone(), draw_pixels(count, side)
    halves = Halves(
        backbone,
        "layer4" if "resnet" in place.extraction.backbone else "all",
        place.device,
        torch.float32,
        32,
    )
    accumulated = []
    for chunked in (True, False):
        halves.network.zero_grad()
        if chunked:
            with tempfile.TemporaryFile() as file:
                chunks = (part.to(place.device) for part in pixels.split(place.size(32, 4)))
                backpropagate(chunks, halves, spread_loss, Spill(file))
        else:
            normalise = Normaliser(backbone, place.device, torch.float32)
            spread_loss(halves.network(normalise(pixels.to(place.device)))).backward()
        accumulated.append(
            {name: p.grad.clone() for name, p in halves.parameters.items() if p.grad is not None}
        )
    ours, plain = accumulated
    largest = max(float(value.norm()) for value in plain.values())
    errors = [
        float((ours[name] - value).norm() / value.norm().clamp(min=1e-6 * largest))
        for name, value in plain.items()
    ]
    return {"gradient_error": Limit(max(errors), most=1e-4)}


def spread_loss(embeddings: Tensor) -> Tensor:
    """Return a loss with attention pooling, in which each image's gradient depends on all images."""
    scaled = embeddings / embeddings.detach().std()
    attention = torch.softmax(scaled.mean(1), 0)
    return (attention @ scaled).square().mean()


def memory(place: Place) -> Figures:
    """Compare the most memory of the card that fine-tuning takes for bags of 50, 500 and 5,000 images."""
    halves = Halves(place.backbone(), "all", place.device, torch.float32, 32)
    peaks = [float(peak_bytes(place, halves, count)) for count in place.size((50, 500, 5000), (4, 8, 12))]
    return {"largest_over_smallest": Limit(max(peaks) / max(min(peaks), 1.0), most=1.05)}


def peak_bytes(place: Place, halves: Halves, count: int) -> int:
    """Return the most bytes of tensors on the card during a step on this many images; 0 on the CPU."""
    chunk = draw_pixels(min(32, count), place.size(64, 32)).to(place.device)
    chunks = (chunk[: min(32, count - start)] for start in range(0, count, 32))
    on_card = place.device.type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats(place.device)
    with tempfile.TemporaryFile() as file:
        backpropagate(chunks, halves, spread_loss, Spill(file))
    halves.network.zero_grad()
    return torch.cuda.max_memory_allocated(place.device) if on_card else 0


def steps(place: Place) -> Figures:
    """Fine-tune three steps, and one, a restore and two: the same bits."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    cohort = read_cohort(draw_jpegs(folder, 12, place.size(6, 2), place.extraction.image_size)).labelled()
    cache = FeatureCache.open(
        extract(cohort, place.extraction, folder / "cache", device=str(place.device)).folder
    )
    patients = Patients.of(cohort, cache)
    config = HeadConfig(hidden=32, components=8, batch_size=4)
    head = refit(patients, config, 1, 2, (1,), place.device)

    def finetuner() -> Finetuner:
        options = FinetunerOptions(FinetuneConfig(chunk=5), (5,), place.device, folder)
        return Finetuner(place.backbone(), head, patients, ImageFiles(cohort, cache), options)

    straight, stopped, resumed = finetuner(), finetuner(), finetuner()
    stopped.advance()
    publish_tensors(folder / "state.safetensors", stopped.tensors(), stopped.state())
    resumed.restore(*read_tensors(folder / "state.safetensors"))
    for _ in range(3):
        straight.advance()
    for _ in range(2):
        resumed.advance()
    one, other = straight.tensors(), resumed.tensors()
    equal = one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    return {
        "restored": same(equal, True),
        "predicted": same(straight.predict(patients), resumed.predict(patients)),
    }


def out_of_memory(place: Place) -> Figures:
    """Extract with too little memory: the error names the option and the memory, and the next run works."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    cohort = read_cohort(draw_jpegs(folder, 4, place.size(64, 2), place.extraction.image_size))
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
    cohort = read_cohort(draw_jpegs(folder, 18, 2, place.extraction.image_size))
    cache = FeatureCache.open(
        extract(cohort, place.extraction, folder / "cache", device=str(place.device)).folder
    )
    config = StudyConfig(
        trials=2,
        folds=2,
        outer_folds=2,
        members=2,
        settings={"epochs": (2,), "hidden": (32,), "pooling": ("attention",)},
    )
    values = []
    for count in (1, 2):
        tuned = tune(
            cohort, cache, folder / f"study{count}", config, str(place.device), RunConfig(workers=count)
        )
        values.append((tuned.best.epoch, tuned.best.config, tuned.trials))
    return {"completed": same(values[1][2], 6), "same_choice": same(values[0], values[1])}


CHECKS: Mapping[str, Check] = {
    "embeddings": embeddings,
    "lockstep": lockstep,
    "synchronisations": synchronisations,
    "gradients": gradients,
    "memory": memory,
    "steps": steps,
    "out_of_memory": out_of_memory,
    "ranks": ranks,
    "extraction": extraction,
    "workers": workers,
}
