"""`extract`: embed the images of a cohort that are missing from its cache or have changed."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mil_toolkit.backbones.backbones import Backbone, build_backbone
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import PREPROCESS_NAMES, ExtractionConfig
from mil_toolkit.core.devices import available_cores, pick_device, pick_precision
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import remove_dead_temporaries
from mil_toolkit.core.locks import shared
from mil_toolkit.core.text import printable, some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.cache_place import check_cache_place, image_folders
from mil_toolkit.features.colour import Colour, needs_conversion
from mil_toolkit.features.failures import Failures
from mil_toolkit.features.notes import Notes
from mil_toolkit.features.opening import DECODER, read_size
from mil_toolkit.features.pipeline import BatchEmbedder, Pipeline
from mil_toolkit.features.plan import Plan, Wanted, plan_all, wanted_images
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.sharding import WHOLE, Share, imbalance
from mil_toolkit.features.shards import Recorded
from mil_toolkit.features.spec import folder_name, holds_spec, make_spec
from mil_toolkit.features.update import CacheUpdate

# The fastest for ResNet34. On the CPU, each core embeds a batch of its own.
BATCH_SIZES = {"cpu": 8, "cuda": 16}
SMALLEST = 32  # side of the smallest image from which a backbone computes a useful embedding
TOLERANCE = "a cosine of 0.995 or more between bfloat16 and float32, over 1,000 smear images"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """The result of `extract`.

    folder: of the cache
    patients, images: of the cohort's share
    extracted: number of images embedded by this call; in a dry run, of those that would be embedded
    seconds: time spent on these images, without the preparation of the network
    skipped: one line for each image left out
    left_out: patients without any readable image
    """

    folder: Path
    patients: int
    images: int
    extracted: int
    seconds: float
    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Of the images embedded by this call; 0 if there were none."""
        return self.extracted / self.seconds if self.seconds else 0.0


def extract(
    cohort: Cohort,
    config: ExtractionConfig,
    root: Path | str = Path("cache"),
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    share: Share = WHOLE,
    on_error: str = "fail",
    rehash: bool = False,
    dry_run: bool = False,
    backbone: Backbone | None = None,
    colour: Colour | Literal["auto"] | None = "auto",
) -> Extraction:
    """Bring the cache of `config` under `root` up to date with the cohort's images.

    Only missing and changed images are embedded. An image is identified by its size and mtime, or else by the
    digest of its content; with `rehash` always by its content.

    batch_size: number of images that are embedded at once, by default that of the device in BATCH_SIZES
    threads: on the CPU, threads that each read and embed batches, by default as many as torch uses
    workers: for CUDA, threads that read images while the device computes, by default one for each core
    on_error: `fail`, or `skip` to leave out images that cannot be read
    backbone: the backbone that `config` names, if it is built already
    colour: `srgb` to apply colour profiles, None to ignore them; `auto` applies them if any image of the
        cohort has one. The spec says so only then: a cohort without profiles keeps its cache.

    Raises DataError that names every image that cannot be read, after everything else was published;
    UsageError for options that cannot work.
    """
    check_options(config, batch_size, threads, workers, on_error)
    place = pick_device(device)
    recorded = Recorded(pick_precision(precision, place), DECODER)
    backbone = backbone or build_backbone(config.backbone, config.weights, config.image_size)
    check_cache_place(Path(root), cohort.name, image_folders(cohort))
    colour = _choose_colour(cohort) if colour == "auto" else colour
    spec = make_spec(config, backbone, colour)
    wanted = _wanted(cohort, share, config.crop)
    folder = Path(root) / cohort.name / folder_name(spec)
    if dry_run:
        return _dry_run(folder, wanted, recorded, rehash)
    batch_size = batch_size or BATCH_SIZES[place.type]
    embed = BatchEmbedder(backbone, place, recorded.precision, batch_size, config.image_size)
    readers = (threads or torch.get_num_threads()) if place.type == "cpu" else _readers(workers)
    pipeline = Pipeline(config, colour, embed, readers, Failures(), Notes())
    with shared(folder):  # keeps a prune from removing shards that the plans reuse
        cache = FeatureCache.create(Path(root), cohort.name, spec)
        remove_dead_temporaries(folder)
        update = CacheUpdate(cache, recorded, pipeline, on_error == "skip")
        seconds = _run_and_log(update, wanted, rehash)
    return _extraction(cache, wanted, pipeline, seconds)


def _readers(workers: int | None) -> int:
    return available_cores() if workers is None else workers


def _wanted(cohort: Cohort, share: Share, crop: int) -> list[Wanted]:
    """Return the images of the share's patients; raises DataError for images smaller than the crop."""
    wanted = [wanted_images(cohort, patient) for patient in cohort.images if share.holds(patient)]
    _check_crop(crop, wanted)
    _log_share(wanted, cohort, share)
    return wanted


def _run_and_log(update: CacheUpdate, wanted: Sequence[Wanted], rehash: bool) -> float:
    """Run the update and return its seconds; log what was noted about images, also where it fails."""
    try:
        return update.run(wanted, rehash)
    finally:
        update.pipeline.notes.log(_count_images(wanted))


def _extraction(
    cache: FeatureCache, wanted: Sequence[Wanted], pipeline: Pipeline, seconds: float
) -> Extraction:
    left_out = _left_out(cache, wanted, pipeline.failures)
    _warn_of_mixture(cache, wanted)
    images, extracted = _count_images(wanted), pipeline.embed.embedded
    skipped = pipeline.failures.lines()
    return Extraction(cache.folder, len(wanted), images, extracted, seconds, skipped, left_out)


def _choose_colour(cohort: Cohort) -> Colour | None:
    """Return `srgb` if an image has a colour profile; looks at all images, whatever this process's share."""
    paths = (path for images in cohort.images.values() for path in images)
    return "srgb" if any(map(needs_conversion, paths)) else None


def _count_images(wanted: Sequence[Wanted]) -> int:
    return sum(len(patient.images) for patient in wanted)


def _dry_run(folder: Path, wanted: Sequence[Wanted], recorded: Recorded, rehash: bool) -> Extraction:
    plans = [Plan(patient, [None] * len(patient.images)) for patient in wanted]
    if holds_spec(folder):
        plans = plan_all(FeatureCache.open(folder), wanted, recorded, Rehashes(folder), rehash)
    missing = sum(len(plan.missing) for plan in plans)
    return Extraction(folder, len(wanted), _count_images(wanted), missing, 0.0)


def _left_out(cache: FeatureCache, wanted: Sequence[Wanted], failures: Failures) -> tuple[str, ...]:
    """Return the patients without a readable image; raises DataError if the cache has embeddings of them."""
    patients = tuple(patient.patient_id for patient in wanted if not failures.without(patient).images)
    outdated = [patient for patient in patients if cache.versions(patient)]
    if outdated:
        raise DataError(
            [
                f"patient {printable(patient)}: no image is readable, and the cache holds older ones."
                for patient in outdated
            ]
        )
    return patients


def _log_share(wanted: Sequence[Wanted], cohort: Cohort, share: Share) -> None:
    if share == WHOLE:
        return
    largest = imbalance(((patient, len(paths)) for patient, paths in cohort.images.items()), share.count)
    logger.info(
        "Shard %s: %d patients, %d images. The largest shard holds %.2f times the mean share of images.",
        share,
        len(wanted),
        _count_images(wanted),
        largest,
    )


def _warn_of_mixture(cache: FeatureCache, wanted: Sequence[Wanted]) -> None:
    stored = [patient.patient_id for patient in wanted if cache.versions(patient.patient_id)]
    computed = cache.recorded(stored)
    if len(computed) > 1:
        logger.warning(
            "The embeddings were computed in %s. Those of the same image differ little: %s.",
            ", ".join(computed),
            TOLERANCE,
        )


def check_options(
    config: ExtractionConfig,
    batch_size: int | None,
    threads: int | None,
    workers: int | None,
    on_error: str,
) -> None:
    """Raise UsageError that names every option of `extract` that cannot work for any cohort."""
    problems = []
    if config.preprocess not in PREPROCESS_NAMES:
        problems.append(f"--preprocess {config.preprocess!r} is not one of {', '.join(PREPROCESS_NAMES)}.")
    if on_error not in ("fail", "skip"):
        problems.append(f"--on-error {on_error!r} is neither fail nor skip.")
    for name, least, value in (
        ("image-size", SMALLEST, config.image_size),
        ("crop", 0, config.crop),
        ("batch-size", 1, 1 if batch_size is None else batch_size),
        ("workers", 0, workers or 0),
    ):
        if value < least:
            problems.append(f"--{name} must be at least {least}, not {value}.")
    cores = available_cores()
    if threads is not None and not 1 <= threads <= cores:
        problems.append(f"--threads must be between 1 and {cores}, the cores of this process, not {threads}.")
    if problems:
        raise UsageError("\n".join(problems))


def _check_crop(crop: int, wanted: Sequence[Wanted]) -> None:
    """Raise UsageError if every image is smaller than the crop. Usually the first image is large enough."""
    sizes: Counter[tuple[int, int]] = Counter()
    for size in (read_size(path) for patient in wanted for _, path in patient.images):
        if size and min(size) >= crop:
            return
        sizes.update([size] if size else [])
    if sizes:
        listed = [f"{width} x {height} ({count})" for (width, height), count in sizes.most_common()]
        raise UsageError(
            f"--crop {crop}: every image is smaller. Sizes and numbers of images: {some(listed)}. Choose a"
            " smaller crop, or 0 for the whole image."
        )
