"""`Bags`: the embeddings of many patients, in one tensor or in the shards of a cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.reading import MEBIBYTE
from mil_toolkit.core.text import printable
from mil_toolkit.features.shards import StoredBag
from mil_toolkit.features.stored_orientations import Orientations, StoredOrientations, runs

STREAMED_FROM = 256 * MEBIBYTE  # of embeddings in float16: 350,000 images of width 384
PART = 8192  # instances that are in memory together, if the embeddings are streamed


def is_streamed(images: int, width: int) -> bool:
    """Return whether embeddings (N, D) of float16 stay in the shards, where a copy would take much memory.

    It depends on the data only, and not on the machine: sums of many rows are rounded in another order when
    they are streamed, and the same command must give the same result everywhere.
    """
    return 2 * images * width > STREAMED_FROM


@dataclass(frozen=True)
class Bags:
    """Packed bags of embeddings.

    instances: (N, D); rows offsets[b] to offsets[b + 1] are the embeddings of bag b
    offsets: (B + 1,) int64, from 0 to N
    patient_ids: B ids
    image_names: N names, one for each row
    orientations: embeddings of the N images in several orientations, if the cache has them

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
    orientations: Orientations | None = None

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

    @property
    def width(self) -> int:
        """Number of columns of the embeddings, D."""
        return self.instances.shape[1]

    @property
    def streamed(self) -> bool:
        """Whether the embeddings stay in the shards of a cache, and are read when they are needed."""
        return False

    def embeddings(self, rows: Tensor) -> Tensor:
        """Return rows (n,) of `instances`, (n, D)."""
        return self.instances[rows]

    def with_embeddings(self, embeddings: Tensor) -> "Bags":
        """Return bags of the same images with other embeddings, (N, D)."""
        return Bags(embeddings, self.offsets, self.patient_ids, self.image_names)

    def parts(self) -> Iterator[Tensor]:
        """Yield the positions of all bags, in order, in parts whose embeddings fit in memory together."""
        yield torch.arange(len(self))

    def totals(self, dtype: torch.dtype) -> Tensor:
        """Return the sum of each bag's embeddings, added in this precision, (B, D)."""
        return torch.cat([self._totals(part, dtype) for part in self.parts()])

    def _totals(self, bags: Tensor, dtype: torch.dtype) -> Tensor:
        embeddings = self.embeddings(self.rows(bags)).to(dtype)
        bag = torch.repeat_interleave(torch.arange(len(bags)), self.sizes[bags])
        return torch.zeros(len(bags), self.width, dtype=dtype).index_add_(0, bag, embeddings)

    @cached_property
    def means(self) -> Tensor:
        """The mean embedding of each bag, (B, D) float32."""
        return self.totals(torch.float32) / self.sizes[:, None]

    @property
    def embedding_count(self) -> int:
        """The number of embeddings in the cache: of N images, in all their orientations."""
        return int(self.offsets[-1]) * (1 if self.orientations is None else self.orientations.count)

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
        bags = torch.tensor(self._places(patient_ids), dtype=torch.int64)
        return self._repacked(self.rows(bags), self.sizes[bags], patient_ids)

    def _places(self, patient_ids: Sequence[str]) -> list[int]:
        index = {patient: bag for bag, patient in enumerate(self.patient_ids)}
        missing = [patient for patient in patient_ids if patient not in index]
        if missing:
            raise DataError([f"patient {printable(patient)} has no embeddings." for patient in missing])
        return [index[patient] for patient in patient_ids]

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
        orientations = self.orientations and self.orientations.take(rows)
        return Bags(self.instances[rows], _offsets(sizes), tuple(patient_ids), names, orientations)


class StreamedBags(Bags):
    """Bags whose embeddings stay in the shards of a cache, and are read when they are needed.

    stored: B bags; width: D

    Copies in other processes read the same files: only their paths are copied. `instances` and `image_names`
    read everything, which takes as much memory as `Bags` do.
    """

    def __init__(self, stored: Sequence[StoredBag], width: int):
        sizes = torch.tensor([bag.size for bag in stored], dtype=torch.int64)
        ids = tuple(bag.patient_id for bag in stored)
        vars(self).update(stored=stored, _width=width, offsets=_offsets(sizes), patient_ids=ids)
        vars(self).update(orientations=StoredOrientations.of(stored))
        self.__post_init__()

    stored: Sequence[StoredBag]
    _width: int

    def __reduce__(self) -> tuple[type["StreamedBags"], tuple[Sequence[StoredBag], int]]:
        """Pickle the places of the embeddings, without what was computed from them."""
        return StreamedBags, (self.stored, self._width)

    @property
    def instances(self) -> Tensor:
        """All embeddings, (N, D)."""
        return self.embeddings(torch.arange(int(self.offsets[-1])))

    @property
    def image_names(self) -> tuple[str, ...]:
        """N names, one for each row."""
        return tuple(name for bag in self.stored for name in bag.read_names())

    @property
    def width(self) -> int:
        """Number of columns of the embeddings, D."""
        return self._width

    @property
    def streamed(self) -> bool:
        """Whether the embeddings stay in the shards of a cache: they do."""
        return True

    def embeddings(self, rows: Tensor) -> Tensor:
        """Read these rows (n,), (n, D); raises DataError where a shard has changed or was removed."""
        wanted, starts = rows.numpy(), self.offsets.numpy()
        bags = np.searchsorted(starts, wanted, side="right") - 1
        embeddings, first = np.empty((len(wanted), self._width), dtype=np.float16), 0
        for run in runs(bags, wanted - starts[bags]):
            last = first + run.stop - run.start
            embeddings[first:last] = self.stored[run.bag].embeddings(run.start, run.stop)
            first = last
        return torch.from_numpy(embeddings)

    def parts(self) -> Iterator[Tensor]:
        """Yield the positions of all bags, in order, in parts of at most PART instances or of one bag."""
        yield from parts_of(self.sizes, PART)

    def select(self, patient_ids: Sequence[str]) -> "Bags":
        """Return the bags of these patients, in this order; raises DataError that names unknown patients."""
        return StreamedBags([self.stored[bag] for bag in self._places(patient_ids)], self._width)

    def _repacked(self, rows: Tensor, sizes: Tensor, patient_ids: Sequence[str]) -> "Bags":
        parts = [part.numpy() for part in rows.split(sizes.tolist())]
        starts = self.offsets[:-1].tolist()
        names = [
            name
            for bag, start, part in zip(self.stored, starts, parts, strict=True)
            for name in np.array(bag.read_names(), dtype=object)[part - start]
        ]
        orientations = self.orientations and self.orientations.take(rows)
        return Bags(self.embeddings(rows), _offsets(sizes), tuple(patient_ids), tuple(names), orientations)


def _offsets(sizes: Tensor) -> Tensor:
    """Return where each bag begins and the last one ends: (B,) -> (B + 1,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])


def parts_of(sizes: Tensor, most: int) -> Iterator[Tensor]:
    """Yield the positions of bags of these sizes (B,), in parts of at most `most` instances or of one bag.

    >>> [part.tolist() for part in parts_of(torch.tensor([2, 2, 9, 1]), most=4)]
    [[0, 1], [2], [3]]
    """
    ends, first = sizes.cumsum(0), 0
    while first < len(sizes):
        last = int(torch.searchsorted(ends, ends[first] - sizes[first] + most, right=True))
        yield torch.arange(first, max(last, first + 1))
        first = max(last, first + 1)
