"""`Pipeline`: read images, embed them in batches that span patients, and assemble the patients' bags."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.devices import DTYPES
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.files import digest
from mil_toolkit.core.text import printable
from mil_toolkit.features.assembly import BagBuilder, Job, missing_images
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.decoding import decode_noting
from mil_toolkit.features.failures import Failures
from mil_toolkit.features.loading import load_batches, stack_on
from mil_toolkit.features.notes import Notes
from mil_toolkit.features.nucleus import Sight
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.pixels import prepare_noting
from mil_toolkit.features.plan import Plan, stored_image
from mil_toolkit.features.shards import StoredImage
from mil_toolkit.features.stain import Pixels


class LoadedImage(NamedTuple):
    """An image that was read; pixels (image_size, image_size, 3) uint8.

    notes: see `Decoded`
    sight: what the search for a nucleus found, None if there was none
    """

    job: Job
    image: StoredImage
    pixels: Pixels
    notes: tuple[str, ...]
    sight: Sight | None


class UnreadableImage(NamedTuple):
    """An image that cannot be read or decoded."""

    job: Job
    reason: str


def read_image(config: ExtractionConfig, colour: Colour | None, job: Job) -> LoadedImage | UnreadableImage:
    """Read, decode and preprocess an image."""
    try:
        content, status = read_image_file(job.path)
        decoded = decode_noting(content, colour)
        prepared = prepare_noting(decoded.pixels, config.image_size, config.crop, config.preprocess)
    except (OSError, MilError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return UnreadableImage(job, str(reason).removeprefix(f"{printable(job.path)} "))
    image = stored_image(job.name, status, bytes.fromhex(digest(content)))
    return LoadedImage(job, image, prepared.pixels, decoded.notes, prepared.sight)


class BatchEmbedder:
    """Embeds up to `batch_size` images at a time.

    embedded: number of images embedded so far
    """

    def __init__(self, backbone: Backbone, device: torch.device, precision: str, batch_size: int):
        self.backbone, self.device, self.precision = backbone, device, precision
        self.batch_size = batch_size
        self.embedded = 0

    @cached_property
    def _network(self) -> Embedder:
        return Embedder(self.backbone, self.device, DTYPES[self.precision])

    def prepare(self) -> None:
        """Prepare the network. Runs that have nothing to embed save this time."""
        _ = self._network

    def __call__(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float16]]:
        """Embed images (S, S, 3) uint8; returns one embedding (D,) for each.

        The network always computes whole batches, padded with black images, because its kernels depend on the
        size of the batch. So the bits of an embedding do not depend on the other images, and a resumed run
        gives the same bits as an uninterrupted one.
        """
        if not images:
            return ()
        embeddings = self._network(stack_on(self.device, images, self.batch_size))
        self.embedded += len(images)
        return list(embeddings[: len(images)].cpu().numpy())


@dataclass(frozen=True)
class Pipeline:
    """Computes the bags of plans.

    colour: whether colour profiles are applied, see `decode`
    workers: number of threads that read images
    failures: collects the images that cannot be embedded
    notes: collects what the decoder says about the others
    sights: collects what the search for nuclei found in them, by patient and image name
    """

    config: ExtractionConfig
    colour: Colour | None
    embed: BatchEmbedder
    workers: int
    failures: Failures
    notes: Notes
    sights: dict[tuple[str, str], Sight]

    def finish_bags(self, plans: Sequence[Plan], progress: Callable[[int], object]) -> Iterator[BagBuilder]:
        """Yield each plan's bag once all of its images are embedded or have failed.

        progress: called after each batch with the number of its images
        """
        read, embed = partial(read_image, self.config, self.colour), self.embed
        jobs = missing_images(plans)
        for batch in load_batches(jobs, read, embed.batch_size, self.workers, embed.device):
            self._embed_batch(batch)
            bags = {result.job.bag.wanted.patient_id: result.job.bag for result in batch}
            yield from (bag for bag in bags.values() if bag.is_finished)
            progress(len(batch))
        yield from (BagBuilder(plan) for plan in plans if not plan.missing)

    def _embed_batch(self, batch: Sequence[LoadedImage | UnreadableImage]) -> None:
        """Embed the readable images of a batch and record the others as failures."""
        for result in batch:
            if isinstance(result, UnreadableImage):
                self._give_up(result.job, result.reason)
        loaded = [result for result in batch if isinstance(result, LoadedImage)]
        embeddings = self.embed([result.pixels for result in loaded])
        for result in loaded:
            self.notes.add(result.job.path, result.notes)
            if result.sight is not None:
                self.sights[result.job.bag.wanted.patient_id, result.job.name] = result.sight
        for result, embedding in zip(loaded, embeddings, strict=True):
            if np.isfinite(embedding).all():
                result.job.bag.fill(result.job.position, result.image, embedding)
            else:
                self._give_up(result.job, "its embedding exceeds float16. Other weights?")

    def _give_up(self, job: Job, reason: str) -> None:
        self.failures.add(job.bag.wanted.patient_id, job.name, job.path, reason)
        job.bag.leave_out()
