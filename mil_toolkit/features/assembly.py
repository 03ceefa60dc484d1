"""`BagBuilder`: one patient's bag while its images are being embedded."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.features.plan import Plan
from mil_toolkit.features.shards import EmbeddedBag, StoredImage, by_shard


class BagBuilder:
    """Collects an image and its embedding for each wanted image of a plan; begins with those in the cache.

    Raises DataError if a shard that holds some of them is damaged.
    """

    def __init__(self, plan: Plan):
        self.wanted = plan.wanted
        self._open = len(plan.wanted.images)
        self._images: list[StoredImage | None] = [None] * self._open
        self._embeddings: list[NDArray[np.float16] | None] = [None] * self._open
        self._fill_stored(plan)

    def _fill_stored(self, plan: Plan) -> None:
        stored = [(index, image) for index, image in enumerate(plan.stored) if image]
        for shard, positions in by_shard([image.bag for _, image in stored]):
            orientations = shard.orientations(slice(0, shard.size))
            for index, image in (stored[position] for position in positions):
                self.fill(index, image.image, orientations[image.bag.rows][image.row].copy())

    def fill(self, index: int, image: StoredImage, orientations: NDArray[np.float16]) -> None:
        """Add the embeddings (1 + A, D) of a wanted image, as it is and in A other orientations."""
        self._images[index], self._embeddings[index] = image, orientations
        self._open -= 1

    def leave_out(self) -> None:
        """Note that one of the wanted images cannot be embedded."""
        self._open -= 1

    @property
    def is_finished(self) -> bool:
        """Whether every wanted image was either filled in or left out."""
        return not self._open

    @property
    def is_complete(self) -> bool:
        """Whether every wanted image was filled in."""
        return None not in self._images

    def bag(self) -> EmbeddedBag | None:
        """Return the bag of the images that were filled in, None if there are none."""
        images = tuple(image for image in self._images if image is not None)
        rows = [row for row in self._embeddings if row is not None]
        if not rows:
            return None
        stacked = np.stack(rows)  # (n, 1 + A, D)
        augmented = stacked[:, 1:] if stacked.shape[1] > 1 else None
        wanted = self.wanted
        return EmbeddedBag(wanted.patient_id, images, stacked[:, 0], augmented, wanted.microns_per_pixel)


class Job(NamedTuple):
    """An image to embed: the wanted image at `position` of a bag."""

    bag: BagBuilder
    position: int

    @property
    def name(self) -> str:
        """The image's name."""
        return self.bag.wanted.images[self.position][0]

    @property
    def path(self) -> Path:
        """The image's file."""
        return self.bag.wanted.images[self.position][1]


def missing_images(plans: Iterable[Plan]) -> Iterator[Job]:
    """Yield a job for each image that has to be embedded, patient after patient."""
    for plan in plans:
        bag = BagBuilder(plan)
        yield from (Job(bag, position) for position in plan.missing)
