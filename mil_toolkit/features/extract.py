"""`extract`: embed the images of a cohort that are missing from its cache or have changed."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from mil_toolkit.backbones.memory import BackboneMemory
from mil_toolkit.backbones.source import BackboneSource, MisrememberedError, find_backbone, source_of
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.extraction import CELL_NAMES, PRECISION_NAMES, PREPROCESS_NAMES, ExtractionConfig
from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import remove_dead_temporaries
from mil_toolkit.core.launchers import own_cores
from mil_toolkit.core.locks import shared
from mil_toolkit.core.run_log import log_into
from mil_toolkit.core.text import printable, some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.cache_place import check_cache_place, image_folders
from mil_toolkit.features.colour import Colour, needs_conversion
from mil_toolkit.features.failures import Failures
from mil_toolkit.features.opening import DECODER, read_size
from mil_toolkit.features.orientations import MOST_AUGMENTED
from mil_toolkit.features.plan import Outdated, Wanted, find_outdated, wanted_images
from mil_toolkit.features.profiles import COLOURS, ColourChoice
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.resolution import in_pixels, warn_of_whole_images
from mil_toolkit.features.scale import resampled_sides
from mil_toolkit.features.sharding import WHOLE, Share, imbalance
from mil_toolkit.features.shards import Recorded, architectures
from mil_toolkit.features.sights import Sight
from mil_toolkit.features.spec import Spec, folder_name, for_backbone, holds_spec, make_spec

if TYPE_CHECKING:
    from mil_toolkit.backbones.backbones import Backbone
    from mil_toolkit.features.update import CacheUpdate

SMALLEST = 32  # side of the smallest image from which a backbone computes a useful embedding
TOLERANCE = "a cosine of 0.995 or more between bfloat16 and float32, over 1,000 smear images"
ACROSS_ARCHITECTURES = "between architectures it has not been measured; benchmarks/cuda.py does so"
logger = logging.getLogger(__name__)


def tolerance(computed: Iterable[str]) -> str:
    """Return how close embeddings of one image are that were computed in these ways.

    computed: of `FeatureCache.recorded`
    """
    return f"{TOLERANCE}; {ACROSS_ARCHITECTURES}" if len(architectures(computed)) > 1 else TOLERANCE


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
    batch_size: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    share: Share = WHOLE,
    on_error: str = "fail",
    rehash: bool = False,
    dry_run: bool = False,
    backbone: "Backbone | BackboneSource | None" = None,
    colour: Colour | Literal["auto"] | None = "auto",
    prepare: Callable[[], None] | None = None,
) -> Extraction:
    """Bring the cache of `config` under `root` up to date with the cohort's images.

    Only missing and changed images are embedded. An image is identified by its size and mtime, or else by the
    digest of its content; with `rehash` always by its content. Where nothing is to be embedded, no image is
    opened and torch is not imported, unless the digest of the backbone's weights is not known yet.

    batch_size: number of images that are embedded at once, by default see `default_batch_size`
    threads: on the CPU, threads that each read and embed batches, by default as many as torch uses
    workers: for a graphics processor, threads that read images, or for CUDA processes if they are more than
        MOST_THREADS; by default this process's share of the cores
    on_error: `fail`, or `skip` to leave out images that cannot be read
    backbone: the backbone that `config` names, if it is built or known already
    colour: `srgb` to apply colour profiles, None to ignore them; `auto` applies them if any image of the
        cohort has one. The spec says so only then: a cohort without profiles keeps its cache.
    prepare: called before images are embedded, if any are

    Raises DataError that names every image that cannot be read, after everything else was published;
    UsageError for options that cannot work.
    """
    check_options(config, batch_size, threads, workers, on_error)
    check_machine(device, precision)
    config = in_pixels(config, cohort)
    root = Path(root)
    check_cache_place(root, cohort.name, image_folders(cohort))
    if backbone is None:
        backbone = find_backbone(config.backbone, config.weights, config.image_size, BackboneMemory(root))
    source = backbone if isinstance(backbone, BackboneSource) else source_of(backbone)
    warn_of_whole_images(for_backbone(config, source.identity.preprocessing))
    how = _How(device, precision, batch_size, threads, workers, on_error == "skip", rehash, prepare)
    run = _Run(cohort, config, root, share, colour, dry_run, how)
    try:
        return run.with_backbone(source)
    except MisrememberedError as error:
        return run.with_backbone(error.source)


def check_machine(device: str, precision: str = "auto") -> None:
    """Raise UsageError for a device or precision that does not exist.

    torch is only imported where it has to be asked.
    """
    if device not in ("auto", "cpu") or precision not in PRECISION_NAMES:
        _recorded(device, precision)


def _recorded(device: str, precision: str) -> Recorded:
    from mil_toolkit.core.devices import architecture, pick_extraction_device, pick_precision  # imports torch

    place = pick_extraction_device(device)
    return Recorded(pick_precision(precision, place), DECODER, architecture(place))


class _How(NamedTuple):
    """How images are embedded; see `extract`."""

    device: str
    precision: str
    batch_size: int | None
    threads: int | None
    workers: int | None
    skip: bool
    rehash: bool
    prepare: Callable[[], None] | None

    def update(
        self, cache: FeatureCache, config: ExtractionConfig, colour: Colour | None, source: BackboneSource
    ) -> "CacheUpdate":
        """Prepare the network and return the update of a cache, in which something is to be embedded."""
        from mil_toolkit.core.devices import pick_extraction_device  # these import torch
        from mil_toolkit.features.batch_sizes import default_batch_size
        from mil_toolkit.features.pipeline import BatchEmbedder, Pipeline
        from mil_toolkit.features.update import CacheUpdate

        if self.prepare:
            self.prepare()
        recorded = _recorded(self.device, self.precision)
        place = pick_extraction_device(self.device)
        batch_size = self.batch_size or default_batch_size(place)
        embed = BatchEmbedder(source.build(), place, recorded.precision, batch_size, config.side)
        pipeline = Pipeline.of(config, colour, embed, self._readers(place.type))
        return CacheUpdate(cache, recorded, pipeline, self.skip)

    def _readers(self, device: str) -> int:
        """Return the number of threads that read images, and on the CPU also embed them."""
        import torch

        if device == "cpu":
            if self.workers is not None:
                logger.warning("--workers has no effect on the CPU, where --threads reads and embeds.")
            return self.threads or torch.get_num_threads()
        if self.threads is not None:
            logger.warning("--threads has no effect on a graphics processor, where --workers reads images.")
        return own_cores() if self.workers is None else self.workers


@dataclass(frozen=True)
class _Run:
    """One call of `extract`, whose arguments these are."""

    cohort: Cohort
    config: ExtractionConfig
    root: Path
    share: Share
    colour: Colour | Literal["auto"] | None
    dry_run: bool
    how: _How

    def with_backbone(self, source: BackboneSource) -> Extraction:
        """Extract with this backbone; raises MisrememberedError if it turns out to be another one."""
        config = for_backbone(self.config, source.identity.preprocessing)
        return replace(self, config=config)._extract(source)

    def _extract(self, source: BackboneSource) -> Extraction:
        resampled = self.config.scale is not None
        patients = [wanted_images(self.cohort, patient, resampled) for patient in self.cohort.images]
        specs = {colour: make_spec(self.config, source.identity, colour) for colour in COLOURS}
        folders = {colour: self._folder(spec) for colour, spec in specs.items()}
        choice = None
        colour: Colour | None
        if self.colour == "auto":
            choice = ColourChoice(patients, folders, rehash=self.how.rehash)
            colour = choice.colour
        else:
            colour = self.colour
        wanted = [patient for patient in patients if self.share.holds(patient.patient_id)]
        reading = None
        self._log_share(wanted)
        if not holds_spec(folders[colour]):
            self._check_crop(wanted)
            source = source if self.dry_run else self._checked(source)
            reading = None if self.dry_run else source.build().reading
        if self.dry_run:
            return self._count_missing(folders[colour], wanted)
        with shared(folders[colour]):  # keeps a prune from removing shards that the plans reuse
            opened = choice.caches.get(colour) if choice else None
            shards = opened.shards if opened else ()
            cache = FeatureCache.create(self.root, self.cohort.name, specs[colour], shards, reading)
            remove_dead_temporaries(cache.folder)
            source.remember()
            extraction = self._update(cache, wanted, colour, source)
            if choice:
                choice.save(cache, wanted)
        _warn_of_mixture(cache, wanted)
        return extraction

    def _checked(self, source: BackboneSource) -> BackboneSource:
        """Build the network and look for the device, since those that fail must not leave an empty cache."""
        _recorded(self.how.device, self.how.precision)
        return source.built()

    def _folder(self, spec: Spec) -> Path:
        return self.root / self.cohort.name / folder_name(spec)

    def _count_missing(self, folder: Path, wanted: Sequence[Wanted]) -> Extraction:
        """Return what would be embedded, without writing anything."""
        images = missing = _count_images(wanted)
        if holds_spec(folder):
            outdated = find_outdated(FeatureCache.open(folder), wanted, Rehashes(folder), self.how.rehash)
            missing = self._missing(outdated, wanted) if outdated else 0
        return Extraction(folder, len(wanted), images, missing, 0.0)

    def _missing(self, outdated: Sequence[Outdated], wanted: Sequence[Wanted]) -> int:
        """Return the number of images that have to be embedded."""
        self._check_crop([patient.wanted for patient in outdated] + list(wanted))
        recorded = _recorded(self.how.device, self.how.precision)
        return sum(len(patient.plan(recorded).missing) for patient in outdated)

    def _update(
        self, cache: FeatureCache, wanted: Sequence[Wanted], colour: Colour | None, source: BackboneSource
    ) -> Extraction:
        """Embed what is missing or changed, if anything is."""
        rehashes, images = Rehashes(cache.folder), _count_images(wanted)
        outdated = find_outdated(cache, _with_images(wanted), rehashes, self.how.rehash)
        rehashes.save()
        if not outdated:
            left_out = _left_out(cache, wanted, Failures())
            return Extraction(cache.folder, len(wanted), images, 0, 0.0, (), left_out)
        self._check_crop([patient.wanted for patient in outdated] + list(wanted))
        log_into(cache.folder)
        update = self.how.update(cache, self.config, colour, source)
        try:
            seconds = update.run(wanted, outdated, rehashes)
        finally:
            update.pipeline.notes.log(images)
        failures, extracted = update.pipeline.failures, update.pipeline.embed.embedded
        left_out, skipped = _left_out(cache, wanted, failures), failures.lines()
        sights = Counter(update.pipeline.sights.values())
        return Extraction(cache.folder, len(wanted), images, extracted, seconds, skipped, left_out, sights)

    def _check_crop(self, wanted: Sequence[Wanted]) -> None:
        if self.config.crop:
            check_crop(self.config.crop, wanted, self.config.scale)

    def _log_share(self, wanted: Sequence[Wanted]) -> None:
        if self.share == WHOLE:
            return
        counts = ((patient, len(paths)) for patient, paths in self.cohort.images.items())
        logger.info(
            "Shard %s: %d patients, %d images. The largest shard holds %.2f times the mean share of images.",
            self.share,
            len(wanted),
            _count_images(wanted),
            imbalance(counts, self.share.count),
        )


def _with_images(wanted: Sequence[Wanted]) -> list[Wanted]:
    return [patient for patient in wanted if patient.images]


def choose_colour(cohort: Cohort) -> Colour | None:
    """Return `srgb` if an image has a colour profile; looks at all images, whatever this process's share."""
    paths = (path for images in cohort.images.values() for path in images)
    return "srgb" if any(map(needs_conversion, paths)) else None


def _count_images(wanted: Sequence[Wanted]) -> int:
    return sum(len(patient.images) for patient in wanted)


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


def _warn_of_mixture(cache: FeatureCache, wanted: Sequence[Wanted]) -> None:
    stored = [patient.patient_id for patient in wanted if cache.versions(patient.patient_id)]
    computed = cache.recorded(stored)
    if len(computed) > 1:
        logger.warning(
            "The embeddings were computed in %s. Those of the same image differ little: %s.",
            ", ".join(computed),
            tolerance(computed),
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
    if config.preprocess in CELL_NAMES and not config.crop and config.crop_um is None:
        problems.append(
            f"--preprocess {config.preprocess} needs --crop: the side of its window, a little more than the"
            " width of a nucleus, such as 80 in pixels or 20um in micrometres."
        )
    if config.crop_um is not None and not 0 < config.crop_um < math.inf:
        problems.append(f"--crop must be a positive number of micrometres, not {config.crop_um:g}.")
    if config.scale is not None and not 0 < config.scale < math.inf:
        problems.append(f"--scale must be a positive number of micrometres per pixel, not {config.scale:g}.")
    if config.crop_um is not None and config.crop:
        problems.append(
            f"The crop is given both in pixels ({config.crop}) and in micrometres ({config.crop_um:g}). Leave"
            " one of crop and crop_um out."
        )
    if on_error not in ("fail", "skip"):
        problems.append(f"--on-error {on_error!r} is neither fail nor skip.")
    for name, least, value in (
        ("image-size", SMALLEST, SMALLEST if config.image_size is None else config.image_size),
        ("crop", 0, config.crop),
        ("batch-size", 1, 1 if batch_size is None else batch_size),
        ("workers", 0, workers or 0),
    ):
        if value < least:
            problems.append(f"--{name} must be at least {least}, not {value}.")
    if not 0 <= config.augment <= MOST_AUGMENTED:
        problems.append(
            f"--augment must be between 0 and {MOST_AUGMENTED}, not {config.augment}: a square has no more"
            " other orientations."
        )
    cores = available_cores()
    if threads is not None and not 1 <= threads <= cores:
        problems.append(f"--threads must be between 1 and {cores}, the cores of this process, not {threads}.")
    if problems:
        raise UsageError("\n".join(problems))


def check_crop(crop: int, wanted: Sequence[Wanted], scale: float | None = None) -> None:
    """Raise UsageError if every image is smaller than the crop. Usually the first image is large enough.

    scale: micrometres per pixel to which images are resampled before
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for size in (_size(path, patient, scale) for patient in wanted for _, path in patient.images):
        if size and min(size) >= crop:
            return
        sizes.update([size] if size else [])
    if sizes:
        at_scale = "" if scale is None else f" at {scale:g} micrometres per pixel"
        listed = some([f"{width} x {height} ({count})" for (width, height), count in sizes.most_common()])
        raise UsageError(
            f"--crop {crop}: every image is smaller{at_scale}. Sizes and numbers of images: {listed}. Choose"
            " a smaller crop, or 0 for none."
        )


def _size(path: Path, patient: Wanted, scale: float | None) -> tuple[int, int] | None:
    """Return width and height of an image as it is cropped; None if it cannot be read."""
    size = read_size(path)
    if size is None or scale is None or patient.microns_per_pixel is None:
        return size
    try:
        return resampled_sides(size, patient.microns_per_pixel, scale)
    except DataError:  # reported when the image is read
        return None
