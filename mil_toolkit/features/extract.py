"""`extract`: embeds what is missing or changed, publishes as it goes, and checks at the end what it left."""

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mil_toolkit.backbones.backbones import RANDOM_SEED, Backbone, build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import PREPROCESS_NAMES, ExtractionConfig
from mil_toolkit.core.devices import DTYPES, available_cores, pick_device, pick_precision
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest, remove_dead_temporaries, shown
from mil_toolkit.core.locks import shared
from mil_toolkit.core.text import count_of, each_or_most, some
from mil_toolkit.features.cache import FeatureCache, folder_name
from mil_toolkit.features.pixels import DECODER, Pixels, decode, load_all, prepare, read_size
from mil_toolkit.features.plan import Plan, Wanted, plan_all, stored_image, wanted_images
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.sharding import WHOLE, Share, imbalance
from mil_toolkit.features.shards import SCHEMA, EmbeddedBag, Recorded, Shard, StoredImage

PATIENTS_PER_SHARD, IMAGES_PER_SHARD, SECONDS_PER_SHARD = 64, 1024, 30.0
BATCH_SIZE = 16  # the quickest for ResNet34 in bfloat16 on two cores
SMALLEST = 32  # side of an image that a backbone still sees something of
ROUNDS = 3
TOLERANCE = "a cosine of 0.995 or more between bfloat16 and float32, over 1,000 smear images"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What one call of `extract` found and did.

    patients, images: of the cohort's share; extracted: images embedded now, or to be embedded in a dry run
    seconds: spent on these images, once the network was ready
    skipped: one line for each image left out; left_out: patients without any readable image
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
        """Of the images embedded now; 0 where there were none."""
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
) -> Extraction:
    """Bring the cache of `config` under `root` up to date with the cohort's images.

    Only what is missing or changed is embedded: an image with the size and mtime it had is known; one with
    others is known by its content's digest. `rehash` trusts no size and mtime. `workers` threads decode (None:
    as many as cores), for CUDA while the network computes, on the CPU in turn with it. `backbone` is one that is
    built already, by default `config` names it.

    Raises DataError with every image that cannot be read, after everything else was published (with
    `on_error="skip"` they are left out instead), UsageError for options that cannot work.
    """
    check_options(config, batch_size, workers, on_error)
    place = pick_device(device)
    recorded = Recorded(pick_precision(precision, place), DECODER)
    backbone = backbone or build_backbone(config.backbone, config.weights)
    spec = make_spec(config, backbone)
    wanted = [wanted_images(cohort, patient) for patient in cohort.images if share.holds(patient)]
    _check_crop(config.crop, wanted)
    _tell_share(wanted, cohort, share)
    root = Path(root)
    folder = root / cohort.name / folder_name(spec)
    if dry_run:
        return _dry_run(folder, wanted, recorded, rehash)
    threads = available_cores() if workers is None else workers
    with shared(folder):  # no prune takes away a shard that the plans count on
        features = FeatureCache.create(root, cohort.name, spec)
        remove_dead_temporaries(folder)
        run = _Run(features, recorded, backbone, place, config, batch_size, threads, on_error == "skip")
        left_out = _until_matching(run, wanted, rehash)
    _tell_mixture(features, wanted)
    images = sum(len(each.images) for each in wanted)
    failures = tuple(_image_problem(reason, path) for path, reason in run.failures.values())
    return Extraction(folder, len(wanted), images, run.extracted, run.seconds, failures, left_out)


def _dry_run(folder: Path, wanted: Sequence["Wanted"], recorded: Recorded, rehash: bool) -> Extraction:
    plans = [Plan(each, [None] * len(each.images)) for each in wanted]
    if (folder / "spec.json").exists():
        plans = plan_all(FeatureCache.open(folder), wanted, recorded, Rehashes(folder), rehash)
    images = sum(len(each.images) for each in wanted)
    return Extraction(folder, len(wanted), images, sum(len(each.missing) for each in plans), 0.0)


def _tell_share(wanted: Sequence["Wanted"], cohort: Cohort, share: Share) -> None:
    if share == WHOLE:
        return
    images = sum(len(each.images) for each in wanted)
    largest = imbalance(((patient, len(each)) for patient, each in cohort.images.items()), share.count)
    logger.info(
        "Shard %s: %d patients, %d images. The largest shard holds %.2f times the mean share of images.",
        share,
        len(wanted),
        images,
        largest,
    )


def _tell_mixture(cache: FeatureCache, wanted: Sequence["Wanted"]) -> None:
    kinds = cache.recorded([each.patient_id for each in wanted if cache.versions(each.patient_id)])
    if len(kinds) > 1:
        logger.warning(
            "The embeddings were computed in %s. Those of one image differ little: %s.",
            ", ".join(kinds),
            TOLERANCE,
        )


def check_options(config: ExtractionConfig, batch_size: int, workers: int | None, on_error: str) -> None:
    """Raise UsageError that names each option of `extract` that cannot work, whatever the cohort is."""
    problems = []
    if config.preprocess not in PREPROCESS_NAMES:
        problems.append(f"--preprocess {config.preprocess!r} is none of {', '.join(PREPROCESS_NAMES)}.")
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


def _check_crop(crop: int, wanted: Sequence["Wanted"]) -> None:
    """Raise UsageError where no image is large enough; mostly the first one is, so that this costs nothing."""
    sizes: Counter[tuple[int, int]] = Counter()
    for size in (read_size(path) for each in wanted for _, path in each.images):
        if size and min(size) >= crop:
            return
        sizes.update([size] if size else [])
    if sizes:
        found = [f"{width} x {height} ({count})" for (width, height), count in sizes.most_common()]
        raise UsageError(
            f"--crop {crop}: every image is smaller. Sizes, and how many images have them: {some(found)}. Choose a"
            " smaller crop, or 0 for the whole image."
        )


def make_spec(config: ExtractionConfig, backbone: Backbone) -> dict[str, Any]:
    """Everything that changes an embedding; the path of the weights does not, their digest does."""
    known = config.weights in ("imagenet", "random")
    return {
        "schema": SCHEMA,
        "backbone": config.backbone,
        "weights": config.weights if known else "file",
        "seed": RANDOM_SEED if config.weights == "random" else None,
        "weight_digest": backbone.weight_digest,
        "width": backbone.width,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "image_size": config.image_size,
        "crop": config.crop,
        "preprocess": config.preprocess,
    }


# Doing it: images are read, embedded in batches across patients, and published in shards.


class _Bag:
    """A patient's bag in the making: an image and its embedding, or None, for each wanted image."""

    def __init__(self, plan: Plan):
        self.wanted = plan.wanted
        self.open = len(plan.wanted.images)
        self.images: list[StoredImage | None] = [None] * self.open
        self.embeddings: list[NDArray[np.float16] | None] = [None] * self.open
        read = cache(Shard.embeddings)
        for place, stored in enumerate(plan.stored):
            if stored:
                self.settle(place, stored.image, read(stored.bag.shard)[stored.bag.rows][stored.row])

    def settle(self, place: int, image: StoredImage | None, embedding: NDArray[np.float16] | None) -> None:
        """Fill a place for good; with nothing where the image cannot be read."""
        self.images[place], self.embeddings[place] = image, embedding
        self.open -= 1

    def finished(self) -> EmbeddedBag | None:
        """The bag of what could be read, or None where that is nothing."""
        images = tuple(image for image in self.images if image is not None)
        rows = [row for row in self.embeddings if row is not None]
        return EmbeddedBag(self.wanted.patient_id, images, np.stack(rows)) if rows else None


class _Job(NamedTuple):
    bag: _Bag
    place: int
    name: str
    path: Path


class _Loaded(NamedTuple):
    """A job with its image as pixels (image_size, image_size, 3) uint8."""

    job: _Job
    image: StoredImage
    pixels: Pixels


class _Failed(NamedTuple):
    """A job whose image cannot be read."""

    job: _Job
    reason: str


def _load(config: ExtractionConfig, job: _Job) -> _Loaded | _Failed:
    try:
        with job.path.open("rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
        pixels = prepare(decode(content), config.image_size, config.crop, config.preprocess)
    except (OSError, DataError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return _Failed(job, str(reason))
    return _Loaded(job, stored_image(job.name, status, bytes.fromhex(digest(content))), pixels)


class _Run:
    """The state of one call of `extract`: what was embedded and what could not be read."""

    def __init__(
        self,
        cache: FeatureCache,
        recorded: Recorded,
        backbone: Backbone,
        device: torch.device,
        config: ExtractionConfig,
        batch_size: int,
        workers: int,
        skip: bool,
    ):
        self.cache, self.recorded, self.backbone, self.device = cache, recorded, backbone, device
        self.config, self.batch_size, self.workers, self.skip = config, batch_size, workers, skip
        self.extracted, self.seconds = 0, 0.0
        # By patient and image name: path and reason.
        self.failures: dict[tuple[str, str], tuple[str, str]] = {}

    @cached_property
    def embedder(self) -> Embedder:
        """The network made ready, which a run with nothing to embed does without."""
        return Embedder(self.backbone, self.device, DTYPES[self.recorded.precision])

    def carry_out(self, plans: Sequence[Plan]) -> None:
        """Embed what is missing and publish every finished bag."""
        if any(plan.missing for plan in plans):
            _ = self.embedder  # made ready before the clock starts
        pending: list[EmbeddedBag] = []
        begun = published = time.monotonic()
        for bag in self._finished_bags(plans):
            pending.append(bag)
            if _enough(pending, time.monotonic() - published):
                self.cache.publish(pending, self.recorded)
                pending, published = [], time.monotonic()
        if pending:
            self.cache.publish(pending, self.recorded)
        self.seconds += time.monotonic() - begun

    def _finished_bags(self, plans: Sequence[Plan]) -> Iterator[EmbeddedBag]:
        for batch in self._batches(plans):
            self._settle(batch)
            bags = {each.job.bag.wanted.patient_id: each.job.bag for each in batch}
            yield from (done for bag in bags.values() if not bag.open and (done := self._worth(bag)))
        yield from (done for plan in plans if not plan.missing and (done := self._worth(_Bag(plan))))

    def _batches(self, plans: Sequence[Plan]) -> Iterator[list[_Loaded | _Failed]]:
        """Images read and decoded, whatever patient they belong to; the last batch may be smaller."""
        # On the CPU, threads that decode while the network computes would take its cores.
        ahead = self.device.type == "cuda"
        window = self.batch_size * (2 if ahead else 1)
        loaded = load_all(self._jobs(plans), partial(_load, self.config), self.workers, window, ahead)
        total = sum(len(plan.missing) for plan in plans)
        with tqdm(total=total, unit="image", disable=None) as progress:
            while batch := list(islice(loaded, self.batch_size)):
                yield batch
                progress.update(len(batch))

    def _worth(self, bag: _Bag) -> EmbeddedBag | None:
        """The finished bag, or None where it must not be published or is the one that counts already."""
        if None in bag.images and not self.skip:
            return None
        finished, versions = bag.finished(), self.cache.versions(bag.wanted.patient_id)
        same = finished and versions and finished.digest == versions[0].digest
        return None if same else finished

    @staticmethod
    def _jobs(plans: Iterable[Plan]) -> Iterator[_Job]:
        for plan in plans:
            bag = _Bag(plan)
            yield from (_Job(bag, place, *plan.wanted.images[place]) for place in plan.missing)

    def _settle(self, batch: Sequence[_Loaded | _Failed]) -> None:
        """Embed the readable images of a batch and note the others."""
        readable = [each for each in batch if isinstance(each, _Loaded)]
        for each in batch:
            if isinstance(each, _Failed):
                self._give_up(each.job, each.reason)
        for done, row in zip(readable, self._embed(readable), strict=True):
            if np.isfinite(row).all():
                done.job.bag.settle(done.job.place, done.image, row)
            else:
                self._give_up(done.job, "its embedding exceeds float16. Other weights?")
        self.extracted += len(readable)

    def _give_up(self, job: _Job, reason: str) -> None:
        self.failures[job.bag.wanted.patient_id, job.name] = shown(job.path), reason
        job.bag.settle(job.place, None, None)

    def _embed(self, batch: Sequence[_Loaded]) -> Sequence[NDArray[np.float16]]:
        """One row an image; the network always sees whole batches, since its kernels depend on their size.

        So an image's embedding is the same in any company, and a resumed run gives an uninterrupted one's bits.
        """
        if not batch:
            return ()
        size = self.config.image_size
        whole = np.zeros((self.batch_size, size, size, 3), dtype=np.uint8)
        whole[: len(batch)] = [each.pixels for each in batch]
        pixels = torch.from_numpy(whole)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        return list(self.embedder(pixels)[: len(batch)].cpu().numpy())

    def readable(self, wanted: Wanted) -> Wanted:
        """What is wanted of a patient without the images that could not be read."""
        images = (each for each in wanted.images if (wanted.patient_id, each[0]) not in self.failures)
        return Wanted(wanted.patient_id, tuple(images))


def _enough(bags: Sequence[EmbeddedBag], seconds: float) -> bool:
    images = sum(len(bag.images) for bag in bags)
    return len(bags) >= PATIENTS_PER_SHARD or images >= IMAGES_PER_SHARD or seconds >= SECONDS_PER_SHARD


def _until_matching(run: _Run, wanted: Sequence[Wanted], rehash: bool) -> tuple[str, ...]:
    """Plan and carry out until every patient's bag that counts matches the images; returns who has none.

    The plan that finds nothing to do is the final check. More rounds are needed where another writer
    published older content, or where images change while they are read.
    """
    rehashes = Rehashes(run.cache.folder)
    for attempt in range(ROUNDS):
        readable = [each for each in map(run.readable, wanted) if each.images]
        plans = plan_all(run.cache, readable, run.recorded, rehashes, rehash and not attempt)
        rehashes.save()
        if not plans:
            return _left_out(run, wanted)
        run.carry_out(plans)
        if run.failures and not run.skip:
            raise DataError([*_told_failures(run, wanted), _told_to_skip(run, wanted)])
        run.cache.refresh()
    names = [shown(each.wanted.patient_id) for each in plans]
    raise DataError(f"Images changed while they were read, {ROUNDS} times over: patients {', '.join(names)}.")


def _told_failures(run: _Run, wanted: Sequence[Wanted]) -> Iterator[str]:
    """A line for each image, or for each reason for which most images cannot be used."""
    paths: dict[str, list[str]] = defaultdict(list)
    for path, reason in run.failures.values():
        paths[reason].append(path)
    images = sum(len(each.images) for each in wanted)
    for reason, failed in paths.items():
        told = [_image_problem(reason, path) for path in failed]
        yield from each_or_most(failed, images, told, f"images cannot be used: {reason} They are")


def _image_problem(reason: str, path: str) -> str:
    return f"{path}: {reason}"


def _told_to_skip(run: _Run, wanted: Sequence[Wanted]) -> str:
    failed = {patient for patient, _ in run.failures}
    others = any(each.patient_id not in failed for each in wanted)
    kept = f" The other patients are in {run.cache.folder}." if others else ""
    some_left = any(run.readable(each).images for each in wanted)
    skip = ", or leave them out with --on-error skip" if some_left else ""
    unusable = count_of(len(run.failures), "image")
    return f"{unusable} cannot be used.{kept} Mend or remove such images{skip}."


def _left_out(run: _Run, wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """Patients without a readable image; raises DataError where the cache would still return old embeddings."""
    patients = tuple(each.patient_id for each in wanted if not run.readable(each).images)
    stale = [patient for patient in patients if run.cache.versions(patient)]
    if stale:
        raise DataError(
            [f"patient {shown(p)}: no image is readable, and the cache holds older ones." for p in stale]
        )
    return patients
