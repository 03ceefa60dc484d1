"""Checks of training on a card; see `card_checks`."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Normaliser
from mil_toolkit.backbones.parts import ALL
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import OPTIMIZER_NAMES, POOLING_NAMES, HeadConfig
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.training.backpropagation import Halves, backpropagate
from mil_toolkit.training.checkpoints import publish_tensors, read_tensors
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit, run_trial
from mil_toolkit.training.spill import Spill
from support.card_data import CPU, Place, draw_folds, draw_jpegs, draw_patients, draw_pixels
from support.card_limits import Figures, Limit, same


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
    config = HeadConfig(epochs=4, components=place.size(64, 8))
    epochs = train(inputs, config, [Member(0, 1), Member(1, 2)], 0)
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
    halves = Halves(backbone, ALL, place.device, torch.float32, 32)
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
        learned = halves.parameters.items()
        accumulated.append({name: part.grad.clone() for name, part in learned if part.grad is not None})
    ours, plain = accumulated
    largest = max(float(value.norm()) for value in plain.values())
    floor = 1e-6 * largest
    errors = [
        float((ours[name] - value).norm() / value.norm().clamp(min=floor)) for name, value in plain.items()
    ]
    return {"gradient_error": Limit(max(errors), most=1e-4)}


def spread_loss(embeddings: Tensor) -> Tensor:
    """Return a loss with attention pooling, in which each image's gradient depends on all images."""
    scaled = embeddings / embeddings.detach().std()
    attention = torch.softmax(scaled.mean(1), 0)
    return (attention @ scaled).square().mean()


def memory(place: Place) -> Figures:
    """Compare the most memory of the card that fine-tuning takes for bags of 50, 500 and 5,000 images.

    Without the share of the card that `shelves_for` fills first, which has a limit of its own.
    """
    # Beside the activations of ResNet34 at this size, the embeddings of 5,000 images are small.
    backbone = place.backbone() if place.small else build_backbone("resnet34", "random")
    halves = Halves(backbone, ALL, place.device, torch.float32, 32)
    counts = (4, 8, 12) if place.small else (50, 500, 5000)
    peaks = [float(peak_bytes(place, halves, count)) for count in counts]
    return {"largest_over_smallest": Limit(max(peaks) / max(min(peaks), 1.0), most=1.05)}


def peak_bytes(place: Place, halves: Halves, count: int) -> int:
    """Return the most bytes of tensors on the card during a step on this many images; 0 on the CPU."""
    chunk = draw_pixels(min(32, count), place.size(224, 32)).to(place.device)
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
    cohort = read_cohort(draw_jpegs(folder, 12, place.size(6, 2), place.extraction.side)).labelled()
    cache = extracted(place, cohort, folder)
    patients = Patients.of(cohort, cache)
    config = HeadConfig(hidden=32, components=8, batch_size=4)
    head = refit(patients, config, 1, 2, (1,), place.device)

    def begin() -> Finetuner:
        options = FinetunerOptions(FinetuneConfig(chunk=5), (5,), place.device, folder)
        return Finetuner(place.backbone(), head, patients, ImageFiles(cohort, cache), options)

    straight, stopped, resumed = begin(), begin(), begin()
    stopped.advance()
    publish_tensors(folder / "state.safetensors", stopped.tensors(), stopped.state())
    resumed.restore(*read_tensors(folder / "state.safetensors"))
    for _ in range(3):
        straight.advance()
    for _ in range(2):
        resumed.advance()
    one, other = straight.tensors(), resumed.tensors()
    equal = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    predicted = [finetuner.predict(patients) for finetuner in (straight, resumed)]
    return {"restored": same(equal, True), "predicted": same(*predicted)}


def extracted(place: Place, cohort: Cohort, folder: Path) -> FeatureCache:
    """Extract a cohort."""
    done = extract(cohort, place.extraction, folder / "cache", device=str(place.device))
    return FeatureCache.open(done.folder)
