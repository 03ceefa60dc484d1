"""`ProjectedFile`: embeddings as projected in each fold, in a temporary file instead of in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mil_toolkit.features.bags import PART, StreamedBags
from mil_toolkit.training.mapped import MappedTensor
from mil_toolkit.training.projection import CPU, Projection


@dataclass(frozen=True)
class ProjectedFile:
    """The N embeddings of streamed bags, projected in F folds.

    tensor: (F * N, C), all rows of one fold after those of another
    """

    tensor: MappedTensor
    count: int

    @classmethod
    def write(
        cls,
        bags: StreamedBags,
        projections: Sequence[Projection],
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> "ProjectedFile":
        """Read all embeddings once and write their F projections, which have the same number of columns.

        device: that projects them

        Raises UsageError where the folder for temporary files has too little space.
        """
        count = int(bags.offsets[-1])
        tensor = MappedTensor(len(projections) * count, projections[0].width, dtype)
        for rows in torch.arange(count).split(PART):
            embeddings = bags.embeddings(rows)
            for fold, projection in enumerate(projections):
                tensor.write(fold * count + int(rows[0]), projection.on(device, embeddings).cpu())
        return cls(tensor, count)

    def read(self, rows: Tensor, folds: Sequence[int]) -> Tensor:
        """Return rows (n,) as projected in each of G folds, (G, n, C) on the CPU."""
        starts = torch.tensor(folds)[:, None] * self.count  # (G, 1)
        return self.tensor.read((starts + rows.cpu()).flatten()).unflatten(0, (len(folds), -1))
