"""Compare training on five folds with a plain loop, torchmil and the bare matrix products, from one run.

    python benchmarks/training.py [--rounds 5] [--json] [--readme | --classes-only]

The data are random embeddings with the shapes of the lymphocytosis cohort (142 bags, 13,453 x 512). All
methods train attention pooling of hidden width 128 and a linear classifier with Adam on five folds, and
predict the held-out patients of each fold after every epoch:

- plain: one bag at a time and one fold after another, as in CLAM and most public code for such data
- torchmil: ABMIL with torchmil's own Trainer and collate function, batch sizes 1 and 16
- ours: `mil_toolkit.training.loop.train` on all folds in lockstep, on the raw embeddings, batch size 16
- floor: only the matrix products and tanh of ours, on tensors in memory: forward, backward, and forward again
  on the held-out patients
- default: ours with the default head (64 components, metadata, late fusion, dropout), and its floor
- five classes: the default head with five classes instead of two, on the same embeddings

Each round times about half a second of each method, and the medians of the rounds' ratios are printed, so
that a temporary load on the machine affects all of them. Whole trials have 50 epochs and all scores. Five
classes are compared with two by processor time, and `--classes-only` measures nothing else. Only this script
needs torchmil: `pip install torchmil`.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is imported, as in the commands

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.devices import training_dtype, use_available_cores
from mil_toolkit.features.bags import Bags
from mil_toolkit.model.kernels import activated_product, bmm
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, predict_held_out, predict_logits, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import run_trial

PATIENTS, INSTANCES, WIDTH, FOLDS, HIDDEN, BATCH, EPOCHS = 142, 13_453, 512, 5, 128, 16, 50
DEFAULT = HeadConfig(epochs=EPOCHS, batch_size=BATCH, hidden=HIDDEN)
PLAIN = HeadConfig(
    epochs=EPOCHS,
    batch_size=BATCH,
    hidden=HIDDEN,
    standardise=False,
    components=0,
    zero_start=False,
    metadata_branch="none",
    embedding_dropout=0.0,
    instance_dropout=0.0,
    class_weights=False,
    optimizer="adam",
    weight_decay=0.0,
)
PRECISION = training_dtype(torch.device("cpu"))
Epoch = Callable[[], object]


def main() -> None:
    """Measure, and print the figures."""
    arguments = _arguments()
    use_available_cores()
    if arguments.peak is not None:
        print(peak_memory(arguments.peak))
        return
    load = os.getloadavg()[0]
    figures: dict[str, float | str] = {**five_classes(arguments.rounds)}
    if not arguments.classes_only:
        figures |= measure_training(arguments.rounds)
    figures |= {
        "load": round(load, 1),
        "threads": torch.get_num_threads(),
        "precision": str(PRECISION).removeprefix("torch."),
        "torch": str(torch.__version__),
    }
    if arguments.readme:
        write_readme(Path(__file__).with_name("README.md"), figures)
    print(json.dumps(figures) if arguments.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


def measure_training(rounds: int) -> dict[str, float]:
    """Return the figures of training with two classes."""
    figures = {**compare(rounds), **growth(rounds)}
    figures |= precision_noise()
    return figures | {f"peak_mb_25_members_{name}": measured_apart(name) for name in ("default", "whole")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--readme", action="store_true", help="write the figures into benchmarks/README.md")
    target.add_argument("--classes-only", action="store_true", help="only compare five classes with two")
    parser.add_argument("--peak", choices=("default", "whole"), help=argparse.SUPPRESS)
    return parser.parse_args()


def draw_patients(instances: int = INSTANCES) -> Patients:
    """Return random patients: bags of at least 16 images, two thirds positive, three metadata columns."""
    random = np.random.default_rng(0)
    spread = random.dirichlet(np.full(PATIENTS, 2.0))
    sizes = (random.multinomial(instances - 16 * PATIENTS, spread) + 16).tolist()
    ids = [f"P{i}" for i in range(PATIENTS)]
    embeddings = torch.from_numpy(random.standard_normal((instances, WIDTH), np.float32)).half()
    metadata = pd.DataFrame(random.normal(size=(PATIENTS, 3)), ids, ["age", "count", "sex"])
    bags = Bags.pack(embeddings.split(sizes), ids, [""] * instances)
    return Patients(bags, (np.arange(PATIENTS) % 3 > 0).astype(int), metadata)


def with_five_classes(patients: Patients) -> Patients:
    """Return the same patients with five classes."""
    return replace(patients, labels=np.arange(PATIENTS) % 5, outcome=Classes("label", tuple("ABCDE")))


def draw_folds(patients: Patients) -> list[np.ndarray]:
    """Return the training patients of each fold."""
    order = np.random.default_rng(1).permutation(len(patients))
    return [np.setdiff1d(order, held_out) for held_out in np.array_split(order, FOLDS)]


# The methods: each returns a function that trains and evaluates one more epoch of all folds.


def plain_loop(patients: Patients, trains: Sequence[np.ndarray]) -> Epoch:
    """Train one bag at a time, one fold after another."""
    bags, labels = float_bags(patients), torch.from_numpy(patients.labels).float()
    models = [PlainABMIL() for _ in trains]
    optimizers = [torch.optim.Adam(model.parameters(), lr=DEFAULT.learning_rate) for model in models]

    def epoch() -> None:
        for model, optimizer, trained in zip(models, optimizers, trains, strict=True):
            for bag in np.random.permutation(trained):
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(model(bags[bag]), labels[bag]).backward()
                optimizer.step()
            with torch.inference_mode():
                for bag in np.setdiff1d(np.arange(len(bags)), trained):
                    model(bags[bag])

    return epoch


class PlainABMIL(nn.Module):
    """Attention pooling of one bag and a linear classifier; Ilse et al. 2018."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
        self.classifier = nn.Linear(WIDTH, 1)

    def forward(self, bag: Tensor) -> Tensor:
        """(n, D) -> ()"""
        weights = self.attention(bag).softmax(0)  # (n, 1)
        return self.classifier((weights * bag).sum(0))[0]


def torchmil_trainer(patients: Patients, trains: Sequence[np.ndarray], batch_size: int) -> Epoch:
    """Train with torchmil's ABMIL, Trainer and collate function, one fold after another."""
    from torch.utils.data import DataLoader
    from torchmil.data import collate_fn
    from torchmil.models import ABMIL
    from torchmil.utils import Trainer

    items = [
        {"X": bag, "Y": torch.tensor(label)}
        for bag, label in zip(float_bags(patients), patients.labels.tolist(), strict=True)
    ]

    def loader(chosen: np.ndarray, shuffle: bool) -> "DataLoader[Any]":
        data: Any = [items[bag] for bag in chosen]  # a list has all that a DataLoader needs of a Dataset
        return DataLoader(data, batch_size, shuffle, collate_fn=collate_fn)

    def trainer() -> Trainer:
        model = ABMIL((WIDTH,), att_dim=HIDDEN)
        optimizer = torch.optim.Adam(model.parameters(), lr=DEFAULT.learning_rate)
        return Trainer(model, optimizer, device="cpu", disable_pbar=True, verbose=False)

    everyone = np.arange(len(items))
    folds = [
        (trainer(), loader(trained, True), loader(np.setdiff1d(everyone, trained), False))
        for trained in trains
    ]

    def epoch() -> None:
        for each, training, held_out in folds:
            each.train(1, training, held_out)

    return epoch


def float_bags(patients: Patients) -> list[Tensor]:
    """The bags in float32, as the others take them."""
    assert patients.bags is not None
    return list(patients.bags.instances.float().split(patients.bags.sizes.tolist()))


def lockstep(patients: Patients, trains: Sequence[np.ndarray], config: HeadConfig, members: int) -> Epoch:
    """Ours, with so many members; each is evaluated on what its fold holds out."""
    inputs = Inputs(patients, trains, dtype=PRECISION)
    population = [Member(k % len(trains), k) for k in range(members)]
    epochs = train(inputs, replace(config, epochs=10**6), population, order_seed=0)
    folds = [member.fold for member in population]
    return lambda: predict_held_out(next(epochs).model, inputs, folds)


def whole_trial(patients: Patients, trains: Sequence[np.ndarray], config: HeadConfig) -> Epoch:
    """Run a trial as a search does, without early stopping, with the scores after each epoch."""
    inputs = Inputs(patients, trains, dtype=PRECISION)
    return lambda: run_trial(inputs, replace(config, patience=config.epochs), "balanced_log_loss", (0,))


def floor(width: int, shared: bool, dtype: torch.dtype) -> Epoch:
    """Return the matrix products and tanhs of one epoch of ours, for five members.

    Forward and backward on the training patients, then forward on the held-out ones. If all members share the
    embeddings, their layers are one product.
    """
    batches = -(-PATIENTS // BATCH)
    training = operands(-(-INSTANCES // batches), width, BATCH, FOLDS, 1 if shared else FOLDS, dtype)
    held_out = operands(INSTANCES // FOLDS, width, PATIENTS // FOLDS, 1, 1, dtype)

    def epoch() -> None:
        for _ in range(batches):
            forward(*training)
            backward(*training)
        for _ in range(FOLDS):
            forward(*held_out)

    return torch.inference_mode()(epoch)


def operands(n: int, width: int, bags: int, members: int, groups: int, dtype: torch.dtype) -> list[Tensor]:
    """Return the operands of attention pooling: x, layer, its output, score weights, attention weights."""
    shared_by = members // groups
    shapes = [
        (groups, n, width),
        (groups, width, HIDDEN * shared_by),
        (members, n, HIDDEN),
        (members, HIDDEN, 1),
        (groups, bags * shared_by, n),
    ]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def forward(x: Tensor, layer: Tensor, hidden: Tensor, score: Tensor, weights: Tensor) -> None:
    """Compute the forward products; the tanh is fused with the first one where torch can."""
    activated_product(x, layer, torch.zeros_like(layer[:, :1]), torch.tanh)
    bmm(hidden, score)
    bmm(weights, x)


def backward(x: Tensor, layer: Tensor, hidden: Tensor, score: Tensor, weights: Tensor) -> None:
    """Compute the products of the gradients, and the gradient of the tanh."""
    bmm(weights[..., : x.shape[-1]], x.transpose(1, 2))
    bmm(hidden.transpose(1, 2), hidden[..., :1])
    bmm(hidden[..., :1], score.transpose(1, 2))
    torch.ops.aten.tanh_backward(hidden, hidden)
    bmm(x.transpose(1, 2), hidden.view(len(x), x.shape[1], -1))


# Measurements.


def seconds(epoch: Epoch, repeat: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return seconds per epoch by a clock, averaged over `repeat` epochs."""
    start = clock()
    for _ in range(repeat):
        epoch()
    return (clock() - start) / repeat


def in_turn(
    ways: dict[str, Epoch],
    rounds: int,
    repeat: dict[str, int],
    uncounted: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return seconds per epoch of each method in each round, after some uncounted warm-up epochs."""
    for _ in range(uncounted):
        for way in ways.values():
            way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way, repeat.get(name, 1), clock))
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two times."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 2)


def compare(rounds: int) -> dict[str, float]:
    """Return speed-ups, ratios to the floor, milliseconds per epoch and seconds per trial."""
    patients = draw_patients()
    trains = draw_folds(patients)
    ways = {
        "plain": plain_loop(patients, trains),
        "torchmil_1": torchmil_trainer(patients, trains, 1),
        "torchmil_16": torchmil_trainer(patients, trains, 16),
        "ours": lockstep(patients, trains, PLAIN, FOLDS),
        "floor": floor(WIDTH, True, PRECISION),
        "floor_float32": floor(WIDTH, True, torch.float32),
        "default": lockstep(patients, trains, DEFAULT, FOLDS),
        "default_floor": floor(DEFAULT.components, False, PRECISION),
    }
    half_a_second = {"ours": 10, "floor": 15, "floor_float32": 5, "default": 20, "default_floor": 50}
    times = in_turn(ways, rounds, half_a_second)
    trials = {
        "default": whole_trial(patients, trains, DEFAULT),
        "whole": whole_trial(patients, trains, PLAIN),
    }
    of_trials = in_turn(trials, max(rounds // 2, 1), {}, uncounted=0)  # the epochs warmed them up
    torchmil = {size: median_ratio(times[f"torchmil_{size}"], times["ours"]) for size in (1, 16)}
    figures = {
        "speedup_loop": median_ratio(times["plain"], times["ours"]),
        "speedup_torchmil": min(torchmil.values()),
        "speedup_torchmil_batch_1": torchmil[1],
        "speedup_torchmil_batch_16": torchmil[16],
        "times_floor": median_ratio(times["ours"], times["floor"]),
        "floor_speedup_loop": median_ratio(times["plain"], times["floor"]),
        "floor_speedup_torchmil": min(
            median_ratio(times[f"torchmil_{size}"], times["floor"]) for size in (1, 16)
        ),
        "seconds_per_trial": round(statistics.median(of_trials["default"]), 2),
        "seconds_per_trial_whole": round(statistics.median(of_trials["whole"]), 2),
        "default_speedup_loop": median_ratio(times["plain"], times["default"]),
        "default_times_floor": median_ratio(times["default"], times["default_floor"]),
    }
    return figures | {f"epoch_ms_{name}": milliseconds(seconds) for name, seconds in times.items()}


def five_classes(rounds: int) -> dict[str, float]:
    """Return the processor time of five classes relative to two, of an epoch and of a whole trial."""
    two = draw_patients()
    five, trains = with_five_classes(two), draw_folds(two)
    epochs = {name: lockstep(each, trains, DEFAULT, FOLDS) for name, each in (("two", two), ("five", five))}
    trials = {name: whole_trial(each, trains, DEFAULT) for name, each in (("two", two), ("five", five))}
    of_epochs = in_turn(epochs, rounds, dict.fromkeys(epochs, 5), clock=time.process_time)
    of_trials = in_turn(trials, rounds, {}, uncounted=1, clock=time.process_time)
    return {
        "five_classes_times_two": median_ratio(of_epochs["five"], of_epochs["two"]),
        "five_classes_times_two_trial": median_ratio(of_trials["five"], of_trials["two"]),
    }


def milliseconds(times: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(1000 * statistics.median(times), 1)


def growth(rounds: int) -> dict[str, float]:
    """Return milliseconds per epoch of the default head for more members and for more instances."""
    patients = draw_patients()
    trains = draw_folds(patients)
    members = {f"members_{k}": lockstep(patients, trains, DEFAULT, k) for k in (2, 5, 10, 25)}
    times = in_turn(members, rounds, {})
    larger = {
        f"instances_x{times}": lockstep(draw_patients(times * INSTANCES), trains, DEFAULT, FOLDS)
        for times in (1, 4, 16)
    }
    times |= in_turn(larger, rounds, {})
    return {f"growth_ms_{name}": milliseconds(seconds) for name, seconds in times.items()}


def precision_noise() -> dict[str, float]:
    """Return the standard deviation of the change in logits due to precision and due to the seed."""
    patients = draw_patients()
    trains = draw_folds(patients)

    def logits(dtype: torch.dtype, seed: int) -> Tensor:
        inputs = Inputs(patients, trains, dtype=dtype)
        members = [Member(fold, seed + fold) for fold in range(FOLDS)]
        *_, (model, _) = train(inputs, replace(DEFAULT, epochs=10), members, order_seed=0)
        return predict_logits(model, inputs, range(FOLDS))

    exact = logits(torch.float32, 0)
    ours = logits(PRECISION, 0)
    return {
        "logit_shift_of_precision": round(float((ours - exact).std()), 4),
        "logit_shift_of_seed": round(float((logits(torch.float32, 100) - exact).std()), 4),
    }


def peak_memory(name: str) -> int:
    """Return the peak resident memory of this process after two epochs of 25 members, in MB."""
    patients = draw_patients()
    epoch = lockstep(patients, draw_folds(patients), DEFAULT if name == "default" else PLAIN, 25)
    seconds(epoch, 2)
    status = Path("/proc/self/status").read_text()  # getrusage includes the peak of the parent process
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def measured_apart(name: str) -> int:
    """Run `peak_memory` in a new process."""
    command = [sys.executable, __file__, "--peak", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return int(done.stdout)


# The README.


def rows(figures: Mapping[str, float | str]) -> Iterator[str]:
    """Yield the lines of the section on training in benchmarks/README.md."""
    of = figures.__getitem__
    yield "## Training"
    yield ""
    yield f"`python benchmarks/training.py --readme`: {of('threads')} threads, {of('precision')},"
    yield f"torch {of('torch')}."
    yield f"{PATIENTS} bags, {INSTANCES:,} x {WIDTH} random embeddings, {FOLDS} folds, width {HIDDEN}."
    yield "An epoch trains all folds once and predicts the held-out patients of each fold. The load"
    yield f"before the run was {of('load')}: above 0.5, other processes used part of the cores, and the"
    yield "ratios are more reliable than the milliseconds."
    yield ""
    yield "| method | ms per epoch | speed-up of ours |"
    yield "|---|---|---|"
    yield f"| plain loop, one bag at a time | {of('epoch_ms_plain')} | {of('speedup_loop')} |"
    for size in (1, 16):
        speedup = of(f"speedup_torchmil_batch_{size}")
        yield f"| torchmil, batch {size} | {of(f'epoch_ms_torchmil_{size}')} | {speedup} |"
    yield f"| **ours**, same model | {of('epoch_ms_ours')} | 1 |"
    floor, default_floor = of("epoch_ms_floor"), of("epoch_ms_default_floor")
    yield f"| floor: only its matrix products and tanhs | {floor} | 1 / {of('times_floor')} |"
    yield f"| the floor in float32 | {of('epoch_ms_floor_float32')} | |"
    yield f"| **default head** | {of('epoch_ms_default')} | |"
    yield f"| its floor | {default_floor} | 1 / {of('default_times_floor')} of the default head |"
    yield ""
    yield f"A trial of {EPOCHS} epochs, scores included, takes {of('seconds_per_trial')} s with the default"
    yield f"head and {of('seconds_per_trial_whole')} s with the same model as the others. Training that"
    yield f"consisted only of the floor's products would be {of('floor_speedup_loop')} times as fast as the"
    yield f"plain loop and {of('floor_speedup_torchmil')} times as fast as torchmil at its better batch size."
    yield ""
    yield f"Five classes take {of('five_classes_times_two')} times the processor time of two in an epoch"
    yield f"with the default head, and {of('five_classes_times_two_trial')} times in a whole trial."
    yield ""
    yield "Scaling of the default head:"
    yield ""
    yield "| | ms per epoch |"
    yield "|---|---|"
    yield from (f"| {k} members | {of(f'growth_ms_members_{k}')} |" for k in (2, 5, 10, 25))
    yield from (f"| {k} times the instances | {of(f'growth_ms_instances_x{k}')} |" for k in (1, 4, 16))
    yield ""
    yield "After ten epochs the logits differ from those in float32 by a standard deviation of"
    yield f"{of('logit_shift_of_precision')}; another seed changes them by {of('logit_shift_of_seed')}."
    yield ""
    yield "Peak memory of the process with 25 members:"
    yield f"{of('peak_mb_25_members_default')} MB with the default head,"
    yield f"{of('peak_mb_25_members_whole')} MB on the raw embeddings."


def write_readme(path: Path, figures: Mapping[str, float | str]) -> None:
    """Replace the section on training in benchmarks/README.md."""
    text = path.read_text() if path.exists() else "# Benchmarks\n"
    part = "\n".join(rows(figures)) + "\n"
    others = re.sub(r"## Training\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    path.write_text(f"{others.rstrip()}\n\n{part}")


if __name__ == "__main__":
    main()
