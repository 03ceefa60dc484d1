"""`ProjectedFile`: embeddings as projected in each fold, in a temporary file instead of in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mil_toolkit.features.bags import PART
from mil_toolkit.training.mapped import MappedTensor
from mil_toolkit.training.projection import CPU, Projection
from mil_toolkit.training.seen import Seen


@dataclass(frozen=True)
class ProjectedFile:
    """The embeddings of streamed bags, projected in F folds.

    tensor: (F * N, C), all rows of one fold after those of another
    count: N, the number of rows that `Seen.read` returns for all instances
    """

    tensor: MappedTensor
    count: int

    @classmethod
    def write(
        cls,
        seen: Seen,
        projections: Sequence[Projection],
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> "ProjectedFile":
        """Read all embeddings once and write their F projections, which have the same number of columns.

        device: that projects them

        Raises UsageError where the folder for temporary files has too little space.
        """
        instances = int(seen.bags.offsets[-1])
        count = instances * seen.slots
        tensor = MappedTensor(len(projections) * count, projections[0].width, dtype)
        step = max(1, PART // seen.slots)
        for start in range(0, instances, step):
            embeddings = seen.read(torch.arange(start, min(start + step, instances)))
            first = start * seen.slots
            for fold, projection in enumerate(projections):
                tensor.write(fold * count + first, projection.on(device, embeddings).cpu())
        return cls(tensor, count)

    def read(self, rows: Tensor, folds: Sequence[int]) -> Tensor:
        """Return rows (n,), or (G, n) in each fold, as projected in each of G folds, (G, n, C) on the CPU."""
        starts = torch.tensor(folds)[:, None] * self.count  # (G, 1)
        return self.tensor.read((starts + rows.cpu()).flatten()).unflatten(0, (len(folds), -1))
