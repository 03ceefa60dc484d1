"""`GroupBags`: embeddings that are standardised within groups of patients, such as those of a hospital."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.features.bags import PART, Bags
from mil_toolkit.features.stored_orientations import Orientations
from mil_toolkit.training.projection import bag_rows, column_scale


@dataclass(frozen=True)
class GroupScaler:
    """The map (x - shift) * scale of each of G groups.

    shift, scale: (G, D) float32
    """

    shift: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, bags: Bags, group: Tensor) -> "GroupScaler":
        """Return the map by which the embeddings of each group have mean 0 and variance 1.

        group: (B,) the number of each bag's group, from 0

        As in `Moments`, each bag has the same weight, and a deviation that is small beside those of the other
        columns is raised. A part of the embeddings is in memory at a time. Labels are not used.
        """
        numbers = range(int(group.max()) + 1)
        moments = [_moments(bags, (group == number).nonzero().flatten()) for number in numbers]
        shifts, scales = zip(
            *((mean, column_scale(np.sqrt(variance))) for mean, variance in moments), strict=True
        )
        return cls(*(torch.from_numpy(np.stack(values)).float() for values in (shifts, scales)))

    def __call__(self, embeddings: Tensor, group: Tensor) -> Tensor:
        """Scale embeddings (n, ..., D) of images of these groups (n,): float32 of the same shape."""
        shape = len(group), *[1] * (embeddings.ndim - 2), -1
        return (embeddings.float() - self.shift[group].view(shape)) * self.scale[group].view(shape)


def _moments(bags: Bags, chosen: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (D,) of the embeddings of the bags at these positions (b,), in two passes."""
    weights = 1 / (bags.sizes[chosen].double() * len(chosen))
    mean, variance = (torch.zeros(bags.width, dtype=torch.float64) for _ in range(2))
    for places, rows in bag_rows(bags, chosen):
        mean += weights[places] @ bags.embeddings(rows).double()
    for places, rows in bag_rows(bags, chosen):
        variance += weights[places] @ (bags.embeddings(rows).double() - mean).square()
    return mean.numpy(), variance.numpy()


class GroupBags(Bags):
    """Bags whose embeddings are standardised within their group when they are read, in float32.

    source: B bags of embeddings as they are; groups: (B,) names
    """

    def __init__(self, source: Bags, groups: np.ndarray):
        group = torch.from_numpy(np.unique(groups, return_inverse=True)[1])
        vars(self).update(source=source, group=group, offsets=source.offsets, patient_ids=source.patient_ids)

    source: Bags
    group: Tensor

    @cached_property
    def scaler(self) -> GroupScaler:
        """The map of each group, fitted at first use."""
        return GroupScaler.fit(self.source, self.group)

    @cached_property
    def orientations(self) -> "GroupOrientations | None":
        """The embeddings in all orientations, scaled by the moments of the images as they are."""
        stored = self.source.orientations
        if stored is None:
            return None
        group = self.group[self.source.bag_of_instance]
        return GroupOrientations(stored, self.scaler, group)

    @property
    def instances(self) -> Tensor:
        """All embeddings, (N, D)."""
        return self.embeddings(torch.arange(int(self.offsets[-1])))

    @property
    def image_names(self) -> tuple[str, ...]:
        """N names, one for each row."""
        return self.source.image_names

    @property
    def width(self) -> int:
        """Number of columns of the embeddings, D."""
        return self.source.width

    @property
    def streamed(self) -> bool:
        """Whether the embeddings stay in the shards."""
        return self.source.streamed

    def embeddings(self, rows: Tensor) -> Tensor:
        """Return rows (n,), standardised, (n, D)."""
        scaled, first = torch.empty(len(rows), self.width), 0
        for part in rows.split(PART):
            group = self.group[torch.searchsorted(self.offsets, part, right=True) - 1]
            scaled[first : first + len(part)] = self.scaler(self.source.embeddings(part), group)
            first += len(part)
        return scaled

    def parts(self) -> Iterator[Tensor]:
        """Yield the positions of all bags, in order, in parts whose embeddings fit in memory together."""
        return self.source.parts()


@dataclass(frozen=True)
class GroupOrientations(Orientations):
    """Embeddings of N images in all their orientations, standardised within their group.

    source: the embeddings as they are; group: (N,) the number of each image's group
    """

    source: Orientations
    scaler: GroupScaler
    group: Tensor

    @property
    def count(self) -> int:
        """Number of orientations of each image, 1 + A with the image as it is."""
        return self.source.count

    def take(self, rows: Tensor) -> "GroupOrientations":
        """Return the orientations of the images in these rows (n,)."""
        return replace(self, source=self.source.take(rows), group=self.group[rows])

    def read(self, rows: Tensor) -> Tensor:
        """Read the embeddings of the images in rows (n,), (n, 1 + A, D) float32; raises as `Shard.read`."""
        return self.scaler(self.source.read(rows), self.group[rows])
