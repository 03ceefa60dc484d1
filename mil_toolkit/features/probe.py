"""`probe`: compare backbones on some images of a cohort, to choose one before a long extraction."""

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.backbones.backbones import Backbone, build_backbone
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import pick_extraction_device, pick_precision
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.launchers import own_cores
from mil_toolkit.features.batch_sizes import default_batch_size
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.extract import choose_colour
from mil_toolkit.features.failures import Failures
from mil_toolkit.features.notes import Notes
from mil_toolkit.features.pipeline import MOST_THREADS, BatchEmbedder, Pipeline
from mil_toolkit.features.plan import Plan, Wanted
from mil_toolkit.features.resolution import in_pixels
from mil_toolkit.features.spec import for_backbone

FEWEST = 2  # images whose embeddings can be compared
_SEED = 0  # of the choice of images


class Probed(NamedTuple):
    """A backbone and what came of some images.

    images: number that were embedded; images_per_second: with reading them
    cosine: mean cosine of two different images; near 1 the network sees hardly any difference
    effective_rank: number of directions in which embeddings differ, see `effective_rank`
    """

    backbone: str
    weights: str
    image_size: int
    width: int
    images: int
    images_per_second: float
    cosine: float
    effective_rank: float


def probe(
    cohort: Cohort,
    configs: Sequence[ExtractionConfig],
    count: int,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> list[Probed]:
    """Embed the same `count` images with the backbone of each configuration; nothing is written.

    threads: that read images, and on the CPU embed them; by default as for `extract`, but for a CUDA device
        at most MOST_THREADS, since the start of processes would count as time of the images

    Raises DataError if fewer than FEWEST images can be read; before any image is read, the errors of
    `in_pixels`, and those of `build_backbone` for the first backbone that cannot be built.
    """
    configs = [in_pixels(config, cohort) for config in configs]
    wanted, colour, place = _chosen(cohort, count), choose_colour(cohort), pick_extraction_device(device)
    number = batch_size or default_batch_size(place)
    readers = _readers(place, threads)
    ready = [
        (config, build_backbone(config.backbone, config.weights, config.image_size)) for config in configs
    ]
    return [
        _probed(config, backbone, _Task(wanted, colour, place, precision, number, readers))
        for config, backbone in ready
    ]


def _readers(device: torch.device, threads: int | None) -> int:
    """Return how many threads read images."""
    if device.type == "cpu":
        return threads or torch.get_num_threads()
    return min(threads or own_cores(), MOST_THREADS)


class _Task(NamedTuple):
    """What is the same for all backbones."""

    wanted: Sequence[Wanted]
    colour: Colour | None
    device: torch.device
    precision: str
    batch_size: int
    readers: int


def _probed(config: ExtractionConfig, backbone: Backbone, task: _Task) -> Probed:
    config = for_backbone(config, backbone.identity.preprocessing)
    precision = pick_precision(task.precision, task.device)
    embed = BatchEmbedder(backbone, task.device, precision, task.batch_size, config.side)
    failures = Failures()
    pipeline = Pipeline(config, task.colour, embed, task.readers, failures, Notes(), {})
    plans = [Plan(wanted, [None] * len(wanted.images)) for wanted in task.wanted]
    with explain_out_of_memory(f"Use a --batch-size below {task.batch_size}."):
        embed.prepare()
        begun = time.perf_counter()
        bags = [bag for bag in (builder.bag() for builder in pipeline.finish_bags(plans, int)) if bag]
        seconds = time.perf_counter() - begun
    embedded = sum(len(bag.embeddings) for bag in bags)
    if embedded < FEWEST:
        raise DataError(
            [f"--probe needs {FEWEST} images that can be read, got {embedded}.", *failures.lines()]
        )
    rows = np.concatenate([bag.embeddings for bag in bags]).astype(np.float64)
    speed = embedded / seconds
    measures = (mean_cosine(rows), effective_rank(rows))
    return Probed(
        config.backbone, Path(config.weights).name, config.side, backbone.width, embedded, speed, *measures
    )


def _chosen(cohort: Cohort, count: int) -> list[Wanted]:
    """Choose images at random, the same ones for the same cohort."""
    images = [
        (patient, image)
        for patient in cohort.images
        for image in zip(cohort.image_names[patient], cohort.images[patient], strict=True)
    ]
    chosen: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for place in sorted(np.random.default_rng(_SEED).permutation(len(images))[:count].tolist()):
        patient, image = images[place]
        chosen[patient].append(image)
    return [Wanted(patient, tuple(some), cohort.scales.get(patient)) for patient, some in chosen.items()]


def mean_cosine(rows: NDArray[np.float64]) -> float:
    """Return the mean cosine of two different rows (N, D); NaN for rows of zeros only.

    >>> mean_cosine(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])).__round__(4)
    0.3333
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    count = len(units)
    if count < FEWEST:
        return float("nan")
    return float((np.square(units.sum(0)).sum() - count) / (count * (count - 1)))


def effective_rank(rows: NDArray[np.float64]) -> float:
    """Return the effective rank of the centred rows (N, D); Roy & Vetterli 2007.

    It is the exponential of the entropy of the singular values divided by their sum: 1 if the rows lie on a
    line, min(N - 1, D) if they spread evenly in all directions, and 0 if all are equal. Garrido et al. 2023
    (RankMe) choose encoders without labels by it.

    >>> effective_rank(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).__round__(4)
    2.0
    """
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    if not values.sum() > 0:
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
