"""`Pipeline`: read images, embed them in batches that span patients, and assemble the patients' bags."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.devices import DTYPES
from mil_toolkit.core.system import POSIX
from mil_toolkit.features.assembly import BagBuilder, Job, missing_images
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.cuda_graph import captured
from mil_toolkit.features.decoders import DecodedBatch, Decoders
from mil_toolkit.features.failures import Failures
from mil_toolkit.features.loading import in_threads, load_batches, stack_on
from mil_toolkit.features.notes import Notes
from mil_toolkit.features.orientations import turn
from mil_toolkit.features.plan import Plan
from mil_toolkit.features.read_prepared import FileFacts, PreparedFile, UnreadableFile, read_prepared
from mil_toolkit.features.shards import StoredImage
from mil_toolkit.features.sights import Sight
from mil_toolkit.features.stain import Pixels
from mil_toolkit.features.transfer import Transfer, pinned_on

MOST_THREADS = 4  # that read images for a CUDA device; more decoders are processes
# By whether the network computes in float16. Elsewhere only the embedding itself is rounded to it.
NOT_FINITE = {
    True: "values within the network exceed float16. Use mil-extract --precision float32.",
    False: "its embedding exceeds float16. Other weights?",
}
Embedding = NDArray[np.float16]
File = FileFacts | UnreadableFile


class EmbeddedBatch(NamedTuple):
    """A batch of images.

    files: what is known of each image's file, or why it cannot be read
    embeddings: those of each image that was read, in its orientations, (1 + A, D)
    """

    jobs: Sequence[Job]
    files: Sequence[File]
    embeddings: Sequence[Embedding]


def wants_processes(device: torch.device, readers: int) -> bool:
    """Return whether so many readers for this device are processes; see `Decoders`.

    On the CPU, the threads that read also embed, and torch lets others run meanwhile. On Windows, processes
    cannot share the memory into which images are decoded.
    """
    return POSIX and device.type == "cuda" and readers > MOST_THREADS


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
        _ = self._network if self.device.type == "cpu" else self._transfer

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

    @cached_property
    def _transfer(self) -> Transfer:
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        return Transfer(captured(self._network, shape, self.device), self.device)

    def embed_files(self, files: Sequence[PreparedFile]) -> Sequence[Embedding]:
        """Embed up to `batch_size` images in each of their orientations: (1 + A, D) for each."""
        turned = [[turn(file.pixels, symmetry) for symmetry in file.facts.symmetries] for file in files]
        by_orientation = [self(images) for images in zip(*turned, strict=True)]
        return [np.stack(image) for image in zip(*by_orientation, strict=True)]

    def one_late(self, batches: Iterable[DecodedBatch[Job]]) -> Iterator[EmbeddedBatch]:
        """Embed batches; a batch is begun before the embeddings of the one before it are waited for."""
        before: Callable[[], EmbeddedBatch] | None = None
        for batch in batches:
            now = self._begin(batch)
            if before is not None:
                yield before()
            before = now
        if before is not None:
            yield before()

    def _begin(self, batch: DecodedBatch[Job]) -> Callable[[], EmbeddedBatch]:
        readable = [row for row, file in enumerate(batch.files) if isinstance(file, FileFacts)]
        finish = [self._transfer.begin(pixels) for pixels in _orientations(batch)]

        def finished() -> EmbeddedBatch:
            by_orientation = [embeddings()[readable] for embeddings in finish]
            return EmbeddedBatch(batch.jobs, batch.files, list(np.stack(by_orientation, 1)))

        return finished


def _orientations(batch: DecodedBatch[Job]) -> Iterator[Pixels]:
    """Yield the pixels of a batch as they are, then in each other orientation."""
    yield batch.pixels
    symmetries = {row: file.symmetries for row, file in enumerate(batch.files) if isinstance(file, FileFacts)}
    for number in range(1, max(map(len, symmetries.values()), default=1)):
        turned = np.zeros_like(batch.pixels)
        for row, kinds in symmetries.items():
            turned[row] = turn(batch.pixels[row], kinds[number])
        yield turned


@dataclass(frozen=True)
class Pipeline:
    """Computes the bags of plans.

    colour: whether colour profiles are applied, see `decode`
    readers: on the CPU, the number of threads that read and embed; for CUDA, of the threads or processes
        that read, see `wants_processes`
    failures: collects the images that cannot be embedded
    notes: collects what the decoder says about the others
    sights: collects what the search for nuclei found in them, by patient and image name
    """

    config: ExtractionConfig
    colour: Colour | None
    embed: BatchEmbedder
    readers: int
    failures: Failures
    notes: Notes
    sights: dict[tuple[str, str], Sight]

    @classmethod
    def of(
        cls, config: ExtractionConfig, colour: Colour | None, embed: BatchEmbedder, readers: int
    ) -> "Pipeline":
        """Return a pipeline that has not read any image."""
        return cls(config, colour, embed, readers, Failures(), Notes(), {})

    def finish_bags(self, plans: Sequence[Plan], progress: Callable[[int], object]) -> Generator[BagBuilder]:
        """Yield each plan's bag once all of its images are embedded or have failed.

        progress: called after each batch with the number of its images
        """
        for batch in self._embedded(missing_images(plans)):
            self._record(batch)
            bags = {job.bag.wanted.patient_id: job.bag for job in batch.jobs}
            yield from (bag for bag in bags.values() if bag.is_finished)
            progress(len(batch.jobs))
        yield from (BagBuilder(plan) for plan in plans if not plan.missing)

    def _embedded(self, jobs: Iterator[Job]) -> Iterator[EmbeddedBatch]:
        """Yield the batches in order.

        On the CPU each thread reads a batch and embeds it, so that all cores are busy all the time. For CUDA
        threads or processes read the next batches while the device computes.
        """
        embed = self.embed
        if wants_processes(embed.device, self.readers):
            yield from self._embedded_by_processes(jobs)
        elif embed.device.type == "cpu":
            yield from in_threads(jobs, self._read_and_embed, embed.batch_size, self.readers)
        else:
            yield from embed.one_late(self._read_in_threads(jobs))

    def _embedded_by_processes(self, jobs: Iterator[Job]) -> Iterator[EmbeddedBatch]:
        embed = self.embed
        decoders = Decoders[Job](
            self.config,
            self.colour,
            self.readers,
            embed.batch_size,
            lambda job: job.path,
            lambda job: job.bag.wanted.microns_per_pixel,
        )
        with decoders, pinned_on(embed.device, decoders.slots):
            yield from embed.one_late(decoders.batches(jobs))

    def _read_in_threads(self, jobs: Iterator[Job]) -> Iterator[DecodedBatch[Job]]:
        size, side = self.embed.batch_size, self.config.side
        for batch in load_batches(jobs, self._read, size, self.readers, self.embed.device):
            pixels = np.zeros((size, side, side, 3), dtype=np.uint8)
            for row, (_, file) in enumerate(batch):
                if isinstance(file, PreparedFile):
                    pixels[row] = file.pixels
            yield DecodedBatch([job for job, _ in batch], [_facts(file) for _, file in batch], pixels)

    def _read_and_embed(self, jobs: Sequence[Job]) -> EmbeddedBatch:
        files = [file for _, file in map(self._read, jobs)]
        embeddings = self.embed.embed_files([file for file in files if isinstance(file, PreparedFile)])
        return EmbeddedBatch(jobs, list(map(_facts, files)), embeddings)

    def _read(self, job: Job) -> tuple[Job, PreparedFile | UnreadableFile]:
        scale = job.bag.wanted.microns_per_pixel
        return job, read_prepared(self.config, self.colour, job.path, scale)

    def _record(self, batch: EmbeddedBatch) -> None:
        """Fill the embeddings of a batch into the bags, and record the images that have none as failures."""
        read: list[tuple[Job, FileFacts]] = []
        for job, file in zip(batch.jobs, batch.files, strict=True):
            if isinstance(file, UnreadableFile):
                self._give_up(job, file.reason)
            else:
                read.append((job, file))
        self.embed.embedded += len(batch.embeddings)
        for (job, file), embedding in zip(read, batch.embeddings, strict=True):
            self._fill(job, file, embedding)

    def _fill(self, job: Job, file: FileFacts, embedding: Embedding) -> None:
        self.notes.add(job.path, file.notes)
        if file.sight is not None:
            self.sights[job.bag.wanted.patient_id, job.name] = file.sight
        if np.isfinite(embedding).all():
            image = StoredImage(job.name, file.digest, file.size, file.mtime_ns)
            job.bag.fill(job.position, image, embedding)
        else:
            self._give_up(job, NOT_FINITE[self.embed.precision == "float16"])

    def _give_up(self, job: Job, reason: str) -> None:
        self.failures.add(job.bag.wanted.patient_id, job.name, job.path, reason)
        job.bag.leave_out()


def _facts(file: PreparedFile | UnreadableFile) -> File:
    return file.facts if isinstance(file, PreparedFile) else file
