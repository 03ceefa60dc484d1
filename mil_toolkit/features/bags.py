"""`Bags`: the embeddings of many patients in one tensor, with the offsets where each bag begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mil_toolkit.core.errors import DataError


@dataclass(frozen=True)
class Bags:
    """Packed bags of embeddings.

    instances: (N, D), the embeddings of bag b in rows offsets[b] to offsets[b + 1]
    offsets: (B + 1,) int64, starting at 0 and ending at N
    patient_ids: B ids
    image_names: N names, those of a bag in the order of its rows

    Raises DataError where a bag is empty, since no pooling is defined on nothing.
    """

    instances: Tensor
    offsets: Tensor
    patient_ids: tuple[str, ...]
    image_names: tuple[str, ...]

    def __post_init__(self) -> None:
        empty = [self.patient_ids[bag] for bag in (self.sizes == 0).nonzero().flatten().tolist()]
        if empty:
            raise DataError([f"patient {patient} has no embedding." for patient in empty])

    @classmethod
    def pack(cls, bags: Sequence[Tensor], patient_ids: Sequence[str], image_names: Sequence[str]) -> "Bags":
        """Pack one (n, D) tensor per patient."""
        sizes = torch.tensor([0, *map(len, bags)])
        return cls(torch.cat(list(bags)), sizes.cumsum(0), tuple(patient_ids), tuple(image_names))

    def __len__(self) -> int:
        return len(self.patient_ids)

    @cached_property
    def sizes(self) -> Tensor:
        """(B,) int64, instances of each bag."""
        return self.offsets.diff()

    @cached_property
    def bag_of_instance(self) -> Tensor:
        """(N,) int64, the bag that each instance lies in."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.sizes.device), self.sizes)

    def rows(self, bags: Tensor) -> Tensor:
        """Rows of the instances of `bags` (b,), bag after bag."""
        sizes, starts = self.sizes[bags], self.offsets[:-1][bags]
        ends = sizes.cumsum(0)
        ramp = torch.arange(int(ends[-1]) if len(bags) else 0, device=bags.device)
        return ramp + torch.repeat_interleave(starts - ends + sizes, sizes)  # (n,)

    def select(self, patient_ids: Sequence[str]) -> "Bags":
        """The bags of these patients, in this order; raises DataError for those that are not here."""
        index = {patient: bag for bag, patient in enumerate(self.patient_ids)}
        missing = [patient for patient in patient_ids if patient not in index]
        if missing:
            raise DataError([f"patient {patient} has no embeddings." for patient in missing])
        bags = torch.tensor([index[patient] for patient in patient_ids], dtype=torch.int64)
        rows = self.rows(bags)
        return Bags(
            self.instances[rows],
            torch.cat([torch.zeros(1, dtype=torch.int64), self.sizes[bags].cumsum(0)]),
            tuple(patient_ids),
            tuple(self.image_names[row] for row in rows.tolist()),
        )
