"""Speeds on a card, for `benchmarks/cuda.py`: each function returns figures from rounds that take turns."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mil_toolkit.backbones.embedder import Embedder, Normaliser
from mil_toolkit.backbones.parts import last_stage
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.devices import DTYPES, pick_precision, training_dtype
from mil_toolkit.features.batch_sizes import default_batch_size
from mil_toolkit.features.cuda_graph import captured
from mil_toolkit.features.decoders import Decoders
from mil_toolkit.features.extract import extract
from mil_toolkit.features.loading import load_batches
from mil_toolkit.features.read_prepared import read_prepared
from mil_toolkit.training.backpropagation import Halves, backpropagate
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, predict_held_out, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import run_trial
from mil_toolkit.training.spill import Spill, shelves_for
from mil_toolkit.training.together import TrialRequest, run_trials
from support.card_data import CPU, Place, draw_folds, draw_jpegs, draw_patients, draw_pixels
from support.card_training import spread_loss

Speeds = Mapping[str, float]
Way = Callable[[], object]


def in_turn(place: Place, ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, over rounds in which the ways take turns, after one of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for counted in [False, *[True] * rounds]:
        for name, way in ways.items():
            place.wait()
            begun = time.perf_counter()
            way()
            place.wait()
            if counted:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def ceilings(place: Place) -> Speeds:
    """Return gigabytes copied and operations computed a second."""
    size, side = place.size(2**28, 2**16), place.size(8192, 64)
    host = torch.empty(size, dtype=torch.uint8)
    pinned = host.pin_memory() if place.device.type == "cuda" else host
    there = host.to(place.device)
    ways: dict[str, Way] = {
        "copy_pinned": lambda: there.copy_(pinned, non_blocking=True),
        "copy_pageable": lambda: there.copy_(host),
        "copy_on_card": there.clone,
    }
    operands = {name: torch.randn(side, side, device=place.device, dtype=DTYPES[name]) for name in DTYPES}
    ways |= {f"product_{name}": (lambda x=x: x @ x) for name, x in operands.items()}
    seconds = in_turn(place, ways, place.size(5, 1))
    figures = {f"{name}_gb_s": size / seconds[name] / 1e9 for name in ways if name.startswith("copy")}
    operations = {f"{name}_tflops": 2 * side**3 / seconds[name] / 1e12 for name in ways if "product" in name}
    return figures | operations


def network(place: Place) -> Speeds:
    """Return images a second of the bare network by batch: layer by layer, fused, and as a CUDA graph.

    On the CPU, `fused` is packed and there is no graph.
    """
    backbone, side = place.backbone(), place.extraction.side
    dtype = DTYPES[pick_precision("auto", place.device)]
    sizes = (2, 4) if place.small else (16, 64, 256, 512)
    ways: dict[str, Way] = {}
    for size in sizes:
        eager = Embedder(backbone, place.device, dtype)
        fused = Embedder(backbone, place.device, dtype, (size, side))
        pixels = draw_pixels(size, side).to(place.device)
        graph = captured(fused, pixels.shape, place.device)
        for name, way in (("eager", eager), ("fused", fused), ("graph", graph)):
            ways[f"{name}_{size}"] = partial(way, pixels)
    seconds = in_turn(place, ways, place.size(9, 1))
    return {f"{name}_images_s": int(name.split("_")[1]) / each for name, each in seconds.items()}


def decoders(place: Place) -> Speeds:
    """Return images a second of decoding in threads and in processes."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    toml = draw_jpegs(folder, place.size(8, 2), place.size(250, 4), place.size(224, 32))
    paths = all_paths(read_cohort(toml))
    read = partial(read_prepared, place.extraction, None)
    ways: dict[str, Way] = {}
    for count in place_counts(place):
        ways[f"threads_{count}"] = lambda count=count: sum(
            len(batch) for batch in load_batches(iter(paths), read, 64, count, place.device)
        )
    count = place.size(16, 1)
    with Decoders[Path](place.extraction, None, count, place.size(256, 4), Path) as processes:
        ways[f"processes_{count}"] = lambda: sum(len(batch.jobs) for batch in processes.batches(iter(paths)))
        seconds = in_turn(place, ways, place.size(3, 1))
    return {f"{name}_images_s": len(paths) / each for name, each in seconds.items()}


def place_counts(place: Place) -> Sequence[int]:
    """Return the numbers of threads to measure."""
    return (1, 2) if place.small else (1, 4, 16)


def all_paths(cohort: Cohort) -> list[Path]:
    """Return the files of all images."""
    return [path for images in cohort.images.values() for path in images]


class Files(torch.utils.data.Dataset[Tensor]):
    """Image files as in tutorials: decoded, resized, (3, S, S) float32."""

    def __init__(self, paths: Sequence[Path], side: int):
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.paths[index]).convert("RGB").resize((self.side, self.side))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def loader_loop(place: Place, paths: Sequence[Path], workers: int) -> Way:
    """Return the loop of a DataLoader: workers, pinned memory, channels last, autocast, batch 256."""
    backbone, on_card = place.backbone(), place.device.type == "cuda"
    net = backbone.network.eval().to(place.device).to(memory_format=torch.channels_last)
    loader = torch.utils.data.DataLoader(
        Files(paths, place.extraction.side), 256, num_workers=workers, pin_memory=on_card
    )
    dtype = DTYPES[pick_precision("auto", place.device)]

    def loop() -> None:
        reduced = torch.autocast(place.device.type, dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), reduced:
            for batch in loader:
                there = batch.to(place.device, non_blocking=True, memory_format=torch.channels_last)
                net(there).cpu()

    return loop


def extraction(place: Place) -> Speeds:
    """Return images a second of an extraction and of a DataLoader's loop, on files in memory."""
    folder = Path(tempfile.mkdtemp(dir=place.folder))
    cohort = read_cohort(draw_jpegs(folder, place.size(64, 2), place.size(250, 4), place.size(224, 32)))
    paths, caches = all_paths(cohort), itertools.count()

    def ours() -> None:
        extract(cohort, place.extraction, folder / f"cache{next(caches)}", device=str(place.device))

    ways = {"ours": ours, "loader": loader_loop(place, paths, place.size(16, 0))}
    seconds = in_turn(place, ways, place.size(2, 1))
    figures = {f"{name}_images_s": len(paths) / each for name, each in seconds.items()}
    figures |= {"images": float(len(paths)), "batch_size": float(default_batch_size(place.device))}
    return figures | {"speedup": seconds["loader"] / seconds["ours"]}


class PlainABMIL(nn.Module):
    """Attention pooling of one bag and a linear classifier; Ilse et al. 2018."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, 1))
        self.classifier = nn.Linear(width, 1)

    def forward(self, bag: Tensor) -> Tensor:
        """(n, D) -> ()"""
        weights = self.attention(bag).softmax(0)  # (n, 1)
        return self.classifier((weights * bag).sum(0))[0]


def bag_loop(place: Place, patients: Patients, trains: Sequence[np.ndarray]) -> Way:
    """Return an epoch of the common loop: a bag at a time, a fold after the other, on the card."""
    assert patients.bags is not None
    sizes = patients.bags.sizes.tolist()
    bags = patients.bags.instances.float().to(place.device).split(sizes)
    labels = torch.from_numpy(patients.labels).float().to(place.device)
    models = [PlainABMIL(patients.bags.width).to(place.device) for _ in trains]
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]

    def epoch() -> None:
        for model, optimizer, trained in zip(models, optimizers, trains, strict=True):
            for bag in trained:
                optimizer.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(model(bags[bag]), labels[bag])
                loss.backward()
                optimizer.step()
            with torch.inference_mode():
                for bag in np.setdiff1d(np.arange(len(bags)), trained):
                    model(bags[bag])

    return epoch


def lockstep_epoch(patients: Patients, trains: Sequence[np.ndarray], device: torch.device) -> Way:
    """Return an epoch of ours on all folds, with the predictions of the held-out patients."""
    inputs = Inputs(patients, trains, device, training_dtype(device))
    members = [Member(fold, fold) for fold in range(len(trains))]
    epochs = train(inputs, HeadConfig(epochs=10**6), members, 0)
    return lambda: predict_held_out(next(epochs).model, inputs, [member.fold for member in members])


def training(place: Place) -> Speeds:
    """Return milliseconds an epoch and seconds a trial, with a bag loop on the card and ours on the CPU."""
    patients = draw_patients(place.size(142, 12), place.size(13_453, 60), place.size(512, 12))
    trains = draw_folds(patients, place.size(5, 2))
    ways: dict[str, Way] = {
        "ours": lockstep_epoch(patients, trains, place.device),
        "bag_loop": bag_loop(place, patients, trains),
        "processor": lockstep_epoch(patients, trains, CPU),
    }
    seconds = in_turn(place, ways, place.size(7, 1))
    inputs = Inputs(patients, trains, place.device, training_dtype(place.device))
    config = HeadConfig(epochs=place.size(50, 2))
    whole = replace(config, patience=config.epochs)
    trial = in_turn(
        place, {"trial": lambda: run_trial(inputs, whole, "balanced_log_loss", (0,))}, place.size(3, 1)
    )
    requests = [TrialRequest(whole, (0, number)) for number in range(place.size(8, 2))]
    jointly = in_turn(
        place, {"trials": lambda: run_trials(inputs, requests, "balanced_log_loss")}, place.size(3, 1)
    )
    figures = {f"epoch_ms_{name}": 1000 * each for name, each in seconds.items()}
    figures |= {f"seconds_per_trial_together_{len(requests)}": jointly["trials"] / len(requests)}
    figures |= {"speedup_bag_loop": seconds["bag_loop"] / seconds["ours"]}
    return figures | {
        "speedup_processor": seconds["processor"] / seconds["ours"],
        "seconds_per_trial": trial["trial"],
    }


def finetuning(place: Place) -> Speeds:
    """Return images a second of fine-tuning the last stage in chunks, and of plain autograd on one chunk."""
    backbone, count = place.backbone(), place.size(512, 8)
    chunk, side = place.size(64, 4), place.extraction.side
    dtype = DTYPES[pick_precision("auto", place.device)]
    halves = Halves(backbone, last_stage(backbone.network), place.device, dtype, chunk)
    normalise = Normaliser(backbone, place.device, torch.float32)
    pixels = draw_pixels(chunk, side).to(place.device)

    def chunks() -> Iterator[Tensor]:
        yield from (pixels for _ in range(count // chunk))

    def ours() -> None:
        with tempfile.TemporaryFile(dir=place.folder) as file:
            backpropagate(chunks(), halves, spread_loss, Spill(file, shelves_for(place.device)))
        halves.network.zero_grad()

    def plain() -> None:
        with torch.autocast(place.device.type, dtype, enabled=dtype != torch.float32):
            embeddings = halves.network(normalise(pixels)).float()
        spread_loss(embeddings).backward()
        halves.network.zero_grad()

    seconds = in_turn(place, {"ours": ours, "plain": plain}, place.size(3, 1))
    return {"ours_images_s": count / seconds["ours"], "plain_images_s": chunk / seconds["plain"]}


FIGURES: Mapping[str, Callable[[Place], Speeds]] = {
    "figures_ceilings": ceilings,
    "figures_network": network,
    "figures_decoders": decoders,
    "figures_extraction": extraction,
    "figures_training": training,
    "figures_finetuning": finetuning,
}
