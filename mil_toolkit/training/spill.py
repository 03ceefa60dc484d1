"""`Spill`: tensors that wait on the card, in pinned memory or in a file until they are needed again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.memory import available_memory
from mil_toolkit.core.reading import MEBIBYTE

_CARD_SHARE = 8  # of the card's memory one part
_MOST_PINNED = 4096 * MEBIBYTE


@dataclass(frozen=True)
class Shelf:
    """Memory for tensors that a card needs again: on a device, `size` bytes in all.

    pin: whether it is memory of the processor that a card copies from directly
    """

    device: torch.device
    size: int
    pin: bool = False

    def copy(self, x: Tensor) -> Tensor:
        """Return a copy of a tensor in this memory, which autograd can use."""
        with torch.inference_mode(False):
            return torch.empty_like(x, device=self.device, pin_memory=self.pin).copy_(x)


def shelves_for(device: torch.device) -> list[Shelf]:
    """Return the memory to use before a file, the fastest first; none on the CPU, whose memory stays flat."""
    if device.type != "cuda":
        return []
    on_card = torch.cuda.get_device_properties(device).total_memory // _CARD_SHARE
    pinned = min(_MOST_PINNED, available_memory() // 4)
    return [Shelf(device, on_card), Shelf(torch.device("cpu"), pinned, pin=True)]


class Spill:
    """Tensors put aside, and returned in the order in which they were written.

    file: for tensors that no shelf has room for; ideally without a name (`tempfile.TemporaryFile`), so that
        it disappears however the process ends. It is not memory-mapped, because mapped pages would count as
        memory of the process.
    shelves: memory to use before the file
    """

    def __init__(self, file: BinaryIO, shelves: Sequence[Shelf] = ()):
        self._file, self._shelves = file, shelves
        self._free = [shelf.size for shelf in shelves]
        self._tensors: list[Tensor] = []  # in the order of writing; those in the file without their data

    def write(self, x: Tensor) -> None:
        """Append a tensor; raises UsageError if the disk is full."""
        size = x.numel() * x.itemsize
        for number, shelf in enumerate(self._shelves):
            if size <= self._free[number]:
                self._free[number] -= size
                self._tensors.append(shelf.copy(x))
                return
        self._tensors.append(self._write_to_file(x))

    def _write_to_file(self, x: Tensor) -> Tensor:
        """Append a tensor to the file, and return one of the same layout without data."""
        dense = torch.empty_like(x, device="cpu").copy_(x)
        try:
            self._file.write(_bytes(dense))
            self._file.flush()
        except OSError as error:
            raise UsageError(
                f"Cannot write the intermediate values of fine-tuning to a temporary file: {error.strerror}."
            ) from None
        return torch.empty_like(dense, device="meta")

    def read(self) -> Iterator[Tensor]:
        """Yield all tensors in order, then start over with empty shelves and an empty file."""
        self._file.seek(0)
        tensors = self._tensors[::-1]
        self._tensors = []
        while tensors:
            tensor = tensors.pop()  # so that its memory is free once it was used
            yield self._read_from_file(tensor) if tensor.is_meta else tensor
        self._free = [shelf.size for shelf in self._shelves]
        self._file.seek(0)

    def _read_from_file(self, layout: Tensor) -> Tensor:
        dense = torch.empty_like(layout, device="cpu")
        self._file.readinto(_bytes(dense))  # type: ignore[attr-defined]
        return dense


def _bytes(dense: Tensor) -> memoryview:
    """Return the memory of a tensor without gaps, whatever the order of its axes."""
    flat: NDArray[np.uint8] = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
    return flat.data
