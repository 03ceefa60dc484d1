"""`StoredOrientations`: embeddings of images in several orientations, which are read when they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_toolkit.features.shards import StoredBag


class Orientations(Protocol):
    """The embeddings of N images in all their orientations."""

    @property
    def count(self) -> int:
        """Number of orientations of each image, 1 + A with the image as it is."""
        ...

    def take(self, rows: Tensor) -> "Orientations":
        """Return the orientations of the images in these rows (n,)."""
        ...

    def read(self, rows: Tensor) -> Tensor:
        """Return the embeddings of the images in rows (n,), (n, 1 + A, D)."""
        ...


@dataclass(frozen=True)
class HeldOrientations(Orientations):
    """Embeddings in memory; tensor: (N, 1 + A, D) float16."""

    tensor: Tensor

    @property
    def count(self) -> int:
        """Number of orientations of each image, 1 + A with the image as it is."""
        return self.tensor.shape[1]

    def take(self, rows: Tensor) -> "HeldOrientations":
        """Return the orientations of the images in these rows (n,)."""
        return HeldOrientations(self.tensor[rows])

    def read(self, rows: Tensor) -> Tensor:
        """Return the embeddings of the images in rows (n,), (n, 1 + A, D) float16."""
        return self.tensor[rows]


@dataclass(frozen=True)
class StoredOrientations(Orientations):
    """The embeddings of N images in all their orientations, in the shards of a cache.

    stored: bags that hold the images
    bag: (N,) the position in `stored` of each image's bag; row: (N,) the image's row in that bag
    """

    stored: Sequence[StoredBag]
    bag: NDArray[np.int64]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, stored: Sequence[StoredBag]) -> "StoredOrientations | None":
        """Return those of all images of these bags, one bag after the other; None if there are none.

        All bags are of one cache, whose images have the same number of orientations.
        """
        if not any(bag.shard.augmented for bag in stored):
            return None
        sizes = [bag.size for bag in stored]
        return cls(stored, np.repeat(np.arange(len(stored)), sizes), np.concatenate([*map(np.arange, sizes)]))

    @property
    def count(self) -> int:
        """Number of orientations of each image, 1 + A with the image as it is."""
        return 1 + self.stored[0].shard.augmented

    def take(self, rows: Tensor) -> "StoredOrientations":
        """Return the orientations of the images in these rows (n,)."""
        places = rows.numpy()
        return StoredOrientations(self.stored, self.bag[places], self.row[places])

    def read(self, rows: Tensor) -> Tensor:
        """Read the embeddings of the images in rows (n,), (n, 1 + A, D) float16; raises as `Shard.read`."""
        places = rows.numpy()
        parts = [
            self.stored[run.bag].orientations(run.start, run.stop)
            for run in runs(self.bag[places], self.row[places])
        ]
        width = self.stored[0].shard.places["embeddings"].shape[1]
        none = np.empty((0, self.count, width), dtype=np.float16)
        return torch.from_numpy(np.concatenate([none, *parts]))


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one bag, from `start` to `stop`."""

    bag: int
    start: int
    stop: int


def runs(bags: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[Run]:
    """Divide pairs of a bag and a row of it into runs of consecutive rows, in the same order.

    >>> [*runs(np.array([0, 0, 1, 1]), np.array([3, 4, 5, 0]))]
    [Run(bag=0, start=3, stop=5), Run(bag=1, start=5, stop=6), Run(bag=1, start=0, stop=1)]
    """
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(bags) != 0)) + 1
    edges = [0, *breaks.tolist(), len(rows)] if len(rows) else []
    for first, last in pairwise(edges):
        yield Run(int(bags[first]), int(rows[first]), int(rows[first]) + last - first)
