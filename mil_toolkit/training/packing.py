"""`Packing`: the rows of a mini-batch of several trials, padded to one of a few numbers of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mil_toolkit.training.inputs import ROW_MULTIPLE, Inputs


def bucket(rows: int) -> int:
    """Return the number of rows of a mini-batch with at least this many: 128, 256, 384, 512, 768, 1024, ...

    These are the powers of two from 128 and the numbers halfway between them, but 192. A CUDA graph is
    captured for each number of rows, so there must be few; with these, less than half of the rows are added.

    >>> [bucket(rows) for rows in (1, 128, 129, 400, 513, 769)]
    [128, 128, 256, 512, 768, 1024]
    """
    size = ROW_MULTIPLE
    while size < rows:
        halfway = size + size // 2
        size = halfway if rows <= halfway and halfway % ROW_MULTIPLE == 0 else 2 * size
    return size


@dataclass(frozen=True)
class Packing:
    """The rows of b patients of each of T trials, with padding rows that bring them to the same `bucket` n.

    rows, bag: (T, n) on the CPU; padding rows have bag b, which is never empty: its softmax would not be a
        number
    sizes: of each trial's bags when it is trained alone, padding rows included
    patients: b
    """

    rows: Tensor
    bag: Tensor
    sizes: Sequence[Sequence[int]]
    patients: int

    @classmethod
    def of(cls, inputs: Inputs, patients: Tensor) -> "Packing":
        """Pack patients (T, b)."""
        rows, bags, sizes = zip(*map(inputs.rows_of, patients), strict=True)
        count = patients.shape[1]
        length = bucket(max(sum(one[:count]) for one in sizes) + 1) if inputs.patients.bags else 0
        return cls(
            torch.stack([nn.functional.pad(row, (0, length - len(row))) for row in rows]),
            torch.stack([nn.functional.pad(bag, (0, length - len(bag)), value=count) for bag in bags]),
            sizes,
            count,
        )


def padded(parts: Sequence[Tensor], packings: Sequence[Packing], value: float) -> list[Tensor]:
    """Return what was drawn for each mini-batch (F, n), with a value for the further padding rows."""
    return [
        nn.functional.pad(part, (0, one.rows.shape[1] - part.shape[1]), value=value)
        for part, one in zip(parts, packings, strict=True)
    ]


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one type on a device, copied there at once."""
    if device.type == "cpu" or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(device, non_blocking=True)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
