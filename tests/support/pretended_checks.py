"""Training on the pretended device, compared with the CPU; run as a program, which prints one JSON object."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from support.pretended_device import MixedDevices, PretendedTensor, register

DEVICE = register()  # before the package is imported

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import POOLING_NAMES, HeadConfig
from mil_toolkit.core import devices
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial
from mil_toolkit.training.projection import fold_moments
from mil_toolkit.training.together import TrialRequest, run_trials

CPU = torch.device("cpu")
HEAD = HeadConfig(
    hidden=8,
    epochs=2,
    batch_size=5,
    metadata_branch="mlp",
    embedding_dropout=0.3,
    metadata_dropout=0.2,
    instance_dropout=0.2,
    instance_width=8,
)
Figures = dict[str, float]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays, infinite where only one is a number."""
    assert one.shape == other.shape
    return float(np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(one - other)).max())


def heads(make_patients: Callable[..., Patients]) -> Iterator[tuple[str, float]]:
    """Yield the largest difference in any output of the procedure, for every pooling."""
    patients, order = make_patients(24, 20), np.random.default_rng(0).permutation(24)
    trains = [np.setdiff1d(order, part) for part in np.split(order, 3)]
    for number, pooling in enumerate(POOLING_NAMES):
        optimizer, components = ("adamw", "sgd", "adam")[number % 3], (0, 8)[number % 2]
        changes = {"optimizer": optimizer, "components": components, "instance_layers": number // 2 % 3}
        config = replace(HEAD, pooling=pooling, **changes)
        outputs = [outputs_of(patients, trains, config, device) for device in (CPU, DEVICE)]
        yield pooling, max(map(difference, *outputs))


def outputs_of(
    patients: Patients, trains: list[np.ndarray], config: HeadConfig, device: torch.device
) -> list[np.ndarray]:
    """Return all that a trial, the members and the refit compute on a device."""
    inputs = Inputs(patients, trains, device)
    trial = run_trial(inputs, config, "balanced_log_loss", (1, 2))
    members = cross_fit_members(inputs, config, 2, 2, (3,))
    fitted = refit(patients, config, 2, 2, (4,), device).apply(patients)
    assert members.attention is not None and fitted.attention is not None
    return [trial.curves.logits, members.logits, members.attention, fitted.logits, fitted.attention]


def together(make_patients: Callable[..., Patients]) -> float:
    """Return the largest difference of trials in one population on the device and alone on the CPU."""
    patients, order = make_patients(24, 20), np.random.default_rng(0).permutation(24)
    trains = [np.setdiff1d(order, part) for part in np.split(order, 3)]
    changes = ({}, {"learning_rate": 1e-3, "instance_dropout": 0.0}, {"embedding_dropout": 0.0, "epochs": 1})
    requests = [
        TrialRequest(replace(HEAD, components=8, **changed), (1, number))
        for number, changed in enumerate(changes)
    ]
    results = [run_trials(Inputs(patients, trains, each), requests, "auc") for each in (CPU, DEVICE)]
    return max(
        difference(one.curves.logits, other.curves.logits) for one, other in zip(*results, strict=True)
    )


def moments(make_patients: Callable[..., Patients]) -> float:
    """Return the largest relative error of the moments of three folds."""
    bags = make_patients(40, 6).bags
    assert isinstance(bags, Bags)
    trains = [np.setdiff1d(np.arange(40), part) for part in np.split(np.arange(39), 3)]
    one, other = (fold_moments(bags, trains, device) for device in (CPU, DEVICE))
    pairs = [
        (getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("total", "outer")
    ]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def finetuning(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield differences of parameters after two steps, of predictions, and after a restore."""
    toml = draw_cohort(folder / "cohort", patients=8, image_size=32, images=(2, 3))
    cohort = read_cohort(toml).labelled()
    config = ExtractionConfig("resnet18", "random", image_size=32)
    cache = FeatureCache.open(extract(cohort, config, folder / "cache", device="cpu").folder)
    patients = Patients.of(cohort, cache)
    head = refit(patients, replace(HEAD, components=4, batch_size=4), 1, 2, (1,))

    def finetuner(device: torch.device) -> Finetuner:
        options = FinetunerOptions(FinetuneConfig(epochs=2, chunk=4), (5,), device, folder)
        files = ImageFiles(cohort, cache)
        return Finetuner(build_backbone("resnet18", "random"), head, patients, files, options)

    one, other = finetuner(CPU), finetuner(DEVICE)
    for each in (one, other):
        each.advance()
        each.advance()
    assert all(isinstance(parameter.data, PretendedTensor) for parameter in other.halves.parameters.values())
    yield "step", _largest_difference(one, other)
    yield "prediction", difference(one.predict(patients), other.predict(patients))
    resumed = finetuner(DEVICE)
    resumed.restore(other.tensors(), other.state())
    for each in (resumed, other):
        each.advance()
    yield "resumed", _largest_difference(other, resumed)
    formats = [
        (state["exp_avg"].stride(), parameter.stride())
        for parameter, state in resumed.optimizer.state.items()
    ]
    yield "formats", float(sum(one != other for one, other in formats))


def _largest_difference(one: Finetuner, other: Finetuner) -> float:
    """Return the largest difference of any tensor of two finetuners."""
    tensors = other.tensors()
    return max(difference(value.numpy(), tensors[name].numpy()) for name, value in one.tensors().items())


def embedding() -> float:
    """Return the largest difference of embeddings."""
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    backbone = build_backbone("resnet18", "random")
    one, other = (Embedder(backbone, device, torch.float32)(pixels.to(device)) for device in (CPU, DEVICE))
    return difference(one.float().numpy(), other.cpu().float().numpy())


def mixtures() -> float:
    """Return how many of three mixtures of devices the pretended one refuses."""
    there, here = torch.ones(2, 2, device=DEVICE), torch.ones(2, 2)
    refused = 0
    for mixed in (lambda: there + here, lambda: there @ here, lambda: there[here.bool()]):
        try:
            mixed()
        except MixedDevices:
            refused += 1
    return refused


def main() -> None:
    """Print the figures."""
    from conftest import make_patients

    devices._cpu_has_bfloat16 = lambda: False
    torch.set_num_threads(1)
    figures: Figures = {"mixtures": mixtures(), "embedding": embedding(), "moments": moments(make_patients)}
    figures |= dict(heads(make_patients)) | {"together": together(make_patients)}
    with tempfile.TemporaryDirectory() as folder:
        figures |= dict(finetuning(Path(folder)))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
