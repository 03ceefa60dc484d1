"""`Seen`: the embeddings that a head sees of each instance, in training and in prediction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.stored_orientations import Orientations


@dataclass(frozen=True)
class Seen:
    """The embeddings of N instances: one each or, with orientations, one for each of them and their mean.

    orientations: of the bags; None if only the images as they are are used
    """

    bags: Bags
    orientations: Orientations | None

    @classmethod
    def by(cls, config: HeadConfig, bags: Bags) -> "Seen":
        """Return what a head of this configuration sees of these bags."""
        return cls(bags, bags.orientations if config.augment else None)

    @property
    def slots(self) -> int:
        """Number of embeddings of each instance: the orientations and then their mean, or 1."""
        return 1 if self.orientations is None else self.orientations.count + 1

    def read(self, rows: Tensor) -> Tensor:
        """Return all embeddings of the instances in rows (n,), (n * slots, D), those of one together."""
        if self.orientations is None:
            return self.bags.embeddings(rows)
        each = self.orientations.read(rows).float()  # (n, slots - 1, D)
        return torch.cat([each, each.mean(1, keepdim=True)], 1).flatten(0, 1)

    def read_for_prediction(self, rows: Tensor) -> Tensor:
        """Return what prediction sees of the instances in these rows (n,), (n, D).

        That is the mean over the orientations. Projections are linear: the mean of the projected embeddings
        is the projection of the mean.
        """
        if self.orientations is None:
            return self.bags.embeddings(rows)
        return self.orientations.read(rows).float().mean(1)

    def places(self, rows: Tensor, drawn: Tensor | None) -> Tensor:
        """Return where `read` puts what heads see of all N instances, for rows (n,): (n,) or (K, n).

        drawn: (K, n) in [0, 1), the orientation that each member sees: a number below 1 / (1 + A) is for
            the first of 1 + A, and so on; None for what prediction sees
        """
        if self.orientations is None:
            return rows
        mean = self.slots - 1
        return rows * self.slots + (mean if drawn is None else (drawn * mean).long())
