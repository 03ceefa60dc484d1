"""`extract`: embed the images of a cohort that are missing from its cache or have changed."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mil_toolkit.backbones.backbones import Backbone, build_backbone
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import CELL_NAMES, PREPROCESS_NAMES, ExtractionConfig
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
from mil_toolkit.features.nucleus import Sight
from mil_toolkit.features.opening import DECODER, read_size
from mil_toolkit.features.pipeline import BatchEmbedder, Pipeline
from mil_toolkit.features.plan import Plan, Wanted, plan_all, wanted_images
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.sharding import WHOLE, Share, imbalance
from mil_toolkit.features.shards import Recorded
from mil_toolkit.features.spec import folder_name, holds_spec, make_spec
from mil_toolkit.features.update import CacheUpdate

BATCH_SIZE = 16  # the fastest for ResNet34 in bfloat16 on two cores
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
    sights: what the search for nuclei found in the images embedded by this call; empty if there was none
    """

    folder: Path
    patients: int
    images: int
    extracted: int
    seconds: float
    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    sights: Mapping[Sight, int] = field(default_factory=dict)

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
    batch_size: int = BATCH_SIZE,
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

    workers: threads that decode, by default one for each core; for CUDA while the network computes
    on_error: `fail`, or `skip` to leave out images that cannot be read
    backbone: the backbone that `config` names, if it is built already
    colour: `srgb` to apply colour profiles, None to ignore them; `auto` applies them if any image of the
        cohort has one. The spec says so only then: a cohort without profiles keeps its cache.

    Raises DataError that names every image that cannot be read, after everything else was published;
    UsageError for options that cannot work.
    """
    check_options(config, batch_size, workers, on_error)
    place = pick_device(device)
    recorded = Recorded(pick_precision(precision, place), DECODER)
    backbone = backbone or build_backbone(config.backbone, config.weights, config.image_size)
    check_cache_place(Path(root), cohort.name, image_folders(cohort))
    config = in_pixels(config, cohort)
    colour = choose_colour(cohort) if colour == "auto" else colour
    spec = make_spec(config, backbone, colour)
    wanted = _wanted(cohort, share, config.crop)
    folder = Path(root) / cohort.name / folder_name(spec)
    if dry_run:
        return _dry_run(folder, wanted, recorded, rehash)
    embed = BatchEmbedder(backbone, place, recorded.precision, batch_size)
    workers = available_cores() if workers is None else workers
    pipeline = Pipeline(config, colour, embed, workers, Failures(), Notes(), {})
    with shared(folder):  # keeps a prune from removing shards that the plans reuse
        cache = FeatureCache.create(Path(root), cohort.name, spec)
        remove_dead_temporaries(folder)
        update = CacheUpdate(cache, recorded, pipeline, on_error == "skip")
        seconds = _run_and_log(update, wanted, rehash)
    return _extraction(cache, wanted, pipeline, seconds)


def _wanted(cohort: Cohort, share: Share, crop: int) -> list[Wanted]:
    """Return the images of the share's patients; raises DataError for images smaller than the crop."""
    wanted = [wanted_images(cohort, patient) for patient in cohort.images if share.holds(patient)]
    check_crop(crop, wanted)
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
    sights = Counter(pipeline.sights.values())
    return Extraction(cache.folder, len(wanted), images, extracted, seconds, skipped, left_out, sights)


def in_pixels(config: ExtractionConfig, cohort: Cohort) -> ExtractionConfig:
    """Return the configuration with `crop` in pixels, at the cohort's resolution if it is in micrometres.

    Raises UsageError if the cohort does not state its resolution, or if the crop is less than a pixel.
    """
    if config.crop_um is None:
        return config
    if cohort.microns_per_pixel is None:
        raise UsageError(
            f"A crop of {config.crop_um:g} micrometres needs the resolution of the images, and"
            f" {printable(cohort.source)} does not state microns_per_pixel. Add it to [cohort]."
        )
    crop = round(config.crop_um / cohort.microns_per_pixel)
    if not crop:
        pixel = f"a pixel of {cohort.microns_per_pixel:g} micrometres"
        raise UsageError(f"A crop of {config.crop_um:g} micrometres is less than half of {pixel}.")
    return replace(config, crop=crop)


def choose_colour(cohort: Cohort) -> Colour | None:
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


def check_options(config: ExtractionConfig, batch_size: int, workers: int | None, on_error: str) -> None:
    """Raise UsageError that names every option of `extract` that cannot work for any cohort."""
    problems = []
    if config.preprocess not in PREPROCESS_NAMES:
        problems.append(f"--preprocess {config.preprocess!r} is not one of {', '.join(PREPROCESS_NAMES)}.")
    if config.preprocess in CELL_NAMES and not config.crop and config.crop_um is None:
        problems.append(
            f"--preprocess {config.preprocess} needs --crop: the side of its window, a little more than the"
            " width of a nucleus, such as 80 in pixels or 20um in micrometres."
        )
    if config.crop_um is not None and not 0 < config.crop_um < math.inf:
        problems.append(f"--crop must be above 0 micrometres, not {config.crop_um:g}.")
    if on_error not in ("fail", "skip"):
        problems.append(f"--on-error {on_error!r} is neither fail nor skip.")
    for name, least, value in (
        ("image-size", SMALLEST, config.image_size),
        ("crop", 0, config.crop),
        ("batch-size", 1, batch_size),
        ("workers", 0, workers or 0),
    ):
        if value < least:
            problems.append(f"--{name} must be at least {least}, not {value}.")
    if problems:
        raise UsageError("\n".join(problems))


def check_crop(crop: int, wanted: Sequence[Wanted]) -> None:
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
