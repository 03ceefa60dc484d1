"""`Pipeline`: read images, embed them in batches that span patients, and assemble the patients' bags."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from mil_toolkit.features.loading import in_threads, load_batches, stack_on
from mil_toolkit.features.notes import Notes
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.pixels import prepare_noting
from mil_toolkit.features.plan import Plan, stored_image
from mil_toolkit.features.shards import StoredImage
from mil_toolkit.features.sights import Sight
from mil_toolkit.features.stain import Pixels

# By whether the network computes in float16. Elsewhere only the embedding itself is rounded to it.
NOT_FINITE = {
    True: "values within the network exceed float16. Use mil-extract --precision float32.",
    False: "its embedding exceeds float16. Other weights?",
}


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


Read = LoadedImage | UnreadableImage
Embedding = NDArray[np.float16]


class EmbeddedBatch(NamedTuple):
    """A batch of images, and the embedding (D,) of each image that was read."""

    images: Sequence[Read]
    embeddings: Sequence[Embedding]

    @property
    def loaded(self) -> list[LoadedImage]:
        """The images that were read."""
        return [image for image in self.images if isinstance(image, LoadedImage)]


class BatchEmbedder:
    """Embeds up to `batch_size` images of side `image_size` at a time.

    embedded: number of images embedded so far
    """

    def __init__(
        self, backbone: Backbone, device: torch.device, precision: str, batch_size: int, image_size: int
    ):
        self.backbone, self.device, self.precision = backbone, device, precision
        self.batch_size, self.image_size = batch_size, image_size
        self.embedded = 0

    @cached_property
    def _network(self) -> Embedder:
        batch = (self.batch_size, self.image_size)
        return Embedder(self.backbone, self.device, DTYPES[self.precision], batch)

    def prepare(self) -> None:
        """Prepare the network. Runs that have nothing to embed save this time."""
        _ = self._network

    def __call__(self, images: Sequence[Pixels]) -> Sequence[Embedding]:
        """Embed images (S, S, 3) uint8; returns one embedding (D,) for each.

        The network always computes whole batches, padded with black images, because its kernels depend on the
        size of the batch. So the bits of an embedding do not depend on the other images, and a resumed run
        gives the same bits as an uninterrupted one.
        """
        if not images:
            return ()
        embeddings = self._network(stack_on(self.device, images, self.batch_size))
        return list(embeddings[: len(images)].cpu().numpy())

    def embed_readable(self, images: Sequence[Read]) -> EmbeddedBatch:
        """Embed the images of a batch that were read."""
        pixels = [image.pixels for image in images if isinstance(image, LoadedImage)]
        return EmbeddedBatch(images, self(pixels))


@dataclass(frozen=True)
class Pipeline:
    """Computes the bags of plans.

    colour: whether colour profiles are applied, see `decode`
    threads: on the CPU, the number of threads that read and embed; for CUDA, of those that read
    failures: collects the images that cannot be embedded
    notes: collects what the decoder says about the others
    sights: collects what the search for nuclei found in them, by patient and image name
    """

    config: ExtractionConfig
    colour: Colour | None
    embed: BatchEmbedder
    threads: int
    failures: Failures
    notes: Notes
    sights: dict[tuple[str, str], Sight]

    def finish_bags(self, plans: Sequence[Plan], progress: Callable[[int], object]) -> Iterator[BagBuilder]:
        """Yield each plan's bag once all of its images are embedded or have failed.

        progress: called after each batch with the number of its images
        """
        for batch in self._embedded(missing_images(plans)):
            self._record(batch)
            bags = {image.job.bag.wanted.patient_id: image.job.bag for image in batch.images}
            yield from (bag for bag in bags.values() if bag.is_finished)
            progress(len(batch.images))
        yield from (BagBuilder(plan) for plan in plans if not plan.missing)

    def _embedded(self, jobs: Iterator[Job]) -> Iterator[EmbeddedBatch]:
        """Yield the batches in order.

        On the CPU each thread reads a batch and embeds it, so that all cores are busy all the time. For CUDA
        the threads read the next batch while the device computes.
        """
        embed = self.embed
        if embed.device.type == "cpu":
            yield from in_threads(jobs, self._read_and_embed, embed.batch_size, self.threads)
        else:
            batches = load_batches(jobs, self._read, embed.batch_size, self.threads, embed.device)
            yield from map(embed.embed_readable, batches)

    def _read_and_embed(self, jobs: Sequence[Job]) -> EmbeddedBatch:
        return self.embed.embed_readable([*map(self._read, jobs)])

    def _read(self, job: Job) -> Read:
        return read_image(self.config, self.colour, job)

    def _record(self, batch: EmbeddedBatch) -> None:
        """Fill the embeddings of a batch into the bags, and record the images that have none as failures."""
        for image in batch.images:
            if isinstance(image, UnreadableImage):
                self._give_up(image.job, image.reason)
        self.embed.embedded += len(batch.embeddings)
        for image, embedding in zip(batch.loaded, batch.embeddings, strict=True):
            self.notes.add(image.job.path, image.notes)
            if image.sight is not None:
                self.sights[image.job.bag.wanted.patient_id, image.job.name] = image.sight
            if np.isfinite(embedding).all():
                image.job.bag.fill(image.job.position, image.image, embedding)
            else:
                self._give_up(image.job, NOT_FINITE[self.embed.precision == "float16"])

    def _give_up(self, job: Job, reason: str) -> None:
        self.failures.add(job.bag.wanted.patient_id, job.name, job.path, reason)
        job.bag.leave_out()
