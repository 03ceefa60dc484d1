"""`Bags`: the embeddings of many patients in one tensor, with the offset at which each bag begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable


@dataclass(frozen=True)
class Bags:
    """Packed bags of embeddings.

    instances: (N, D); rows offsets[b] to offsets[b + 1] are the embeddings of bag b
    offsets: (B + 1,) int64, from 0 to N
    patient_ids: B ids
    image_names: N names, one for each row

    Raises DataError that names every empty bag, because poolings are undefined on them.

    >>> first, second = torch.zeros(1, 4), torch.ones(2, 4)
    >>> bags = Bags.pack([first, second], ["P1", "P2"], ["a.png", "b.png", "c.png"])
    >>> bags.instances.shape, bags.offsets.tolist()
    (torch.Size([3, 4]), [0, 1, 3])
    >>> bags.select(["P2"]).image_names
    ('b.png', 'c.png')
    """

    instances: Tensor
    offsets: Tensor
    patient_ids: tuple[str, ...]
    image_names: tuple[str, ...]

    def __post_init__(self) -> None:
        empty = [self.patient_ids[bag] for bag in (self.sizes == 0).nonzero().flatten().tolist()]
        if empty:
            raise DataError([f"patient {printable(patient)} has no embedding." for patient in empty])

    @classmethod
    def pack(cls, bags: Sequence[Tensor], patient_ids: Sequence[str], image_names: Sequence[str]) -> "Bags":
        """Pack one tensor (n, D) per patient."""
        sizes = torch.tensor([len(bag) for bag in bags], dtype=torch.int64)
        return cls(torch.cat(list(bags)), _offsets(sizes), tuple(patient_ids), tuple(image_names))

    def __len__(self) -> int:
        return len(self.patient_ids)

    @cached_property
    def sizes(self) -> Tensor:
        """(B,) int64, the number of instances of each bag."""
        return self.offsets.diff()

    @cached_property
    def bag_of_instance(self) -> Tensor:
        """(N,) int64, the index of each instance's bag."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.sizes.device), self.sizes)

    def rows(self, bags: Tensor) -> Tensor:
        """Return the rows of the instances of `bags` (b,), one bag after the other.

        >>> Bags.pack([torch.zeros(1, 4), torch.ones(2, 4)], ["P1", "P2"], "abc").rows(torch.tensor([1, 0]))
        tensor([1, 2, 0])
        """
        sizes, starts = self.sizes[bags], self.offsets[:-1][bags]
        ends = sizes.cumsum(0)
        ramp = torch.arange(int(ends[-1]) if len(bags) else 0, device=bags.device)
        return ramp + torch.repeat_interleave(starts - ends + sizes, sizes)  # (n,)

    def select(self, patient_ids: Sequence[str]) -> "Bags":
        """Return the bags of these patients, in this order; raises DataError that names unknown patients."""
        index = {patient: bag for bag, patient in enumerate(self.patient_ids)}
        missing = [patient for patient in patient_ids if patient not in index]
        if missing:
            raise DataError([f"patient {printable(patient)} has no embeddings." for patient in missing])
        bags = torch.tensor([index[patient] for patient in patient_ids], dtype=torch.int64)
        return self._repacked(self.rows(bags), self.sizes[bags], patient_ids)

    def take_rows(self, rows_per_bag: Sequence[Tensor]) -> "Bags":
        """Return the same patients' bags with only some of their instances.

        rows_per_bag: for each bag the instances to keep, as int64 indices within that bag

        >>> bags = Bags.pack([torch.zeros(1, 4), torch.ones(3, 4)], ["P1", "P2"], "abcd")
        >>> bags.take_rows([torch.tensor([0]), torch.tensor([0, 2])]).image_names
        ('a', 'b', 'd')
        """
        starts = self.offsets[:-1].tolist()
        rows = torch.cat([start + rows for start, rows in zip(starts, rows_per_bag, strict=True)])
        sizes = torch.tensor([len(rows) for rows in rows_per_bag], dtype=torch.int64)
        return self._repacked(rows, sizes, self.patient_ids)

    def _repacked(self, rows: Tensor, sizes: Tensor, patient_ids: Sequence[str]) -> "Bags":
        """Return bags of these sizes (b,) made of these rows (n,)."""
        names = tuple(self.image_names[row] for row in rows.tolist())
        return Bags(self.instances[rows], _offsets(sizes), tuple(patient_ids), names)


def _offsets(sizes: Tensor) -> Tensor:
    """Return where each bag begins and the last one ends: (B,) -> (B + 1,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
