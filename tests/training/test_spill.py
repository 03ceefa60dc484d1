"""Tensors put aside in memory and in a file come back in order, whatever their layout."""

import io

import pytest
import torch
from support.pixels import random_pixels

from mil_toolkit.core.errors import UsageError
from mil_toolkit.training import spill as spill_module
from mil_toolkit.training.spill import Shelf, Spill, shelves_for

CPU = torch.device("cpu")


@pytest.mark.parametrize("shelves", [(), (0,), (1000,), (300, 1200), (10**6,)], ids=str)
def test_a_spill_returns_tensors_in_order_and_with_their_layout(shelves: tuple[int, ...]) -> None:
    """From the file and from any memory before it; a second time, too."""
    file = io.BytesIO()
    spill = Spill(file, [Shelf(CPU, size) for size in shelves])
    for _ in range(2):
        written = [
            torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last),
            torch.randn(2, 7, dtype=torch.bfloat16),
            random_pixels(2, 4)[:, ::2],
        ]
        for tensor in written:
            spill.write(tensor)
        read = list(spill.read())
        assert all(torch.equal(one, other) for one, other in zip(read, written, strict=True))
        assert read[0].is_contiguous(memory_format=torch.channels_last)


def test_a_full_disk_is_reported() -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match="No space left"):
        Spill(Full()).write(torch.zeros(4))


def test_shelves_are_filled_one_after_the_other_and_only_then_the_file() -> None:
    """And again after everything was read."""
    file = io.BytesIO()
    spill = Spill(file, [Shelf(CPU, 20), Shelf(torch.device("meta"), 10)])
    for _ in range(2):
        for number in range(5):
            spill.write(torch.full((10,), number, dtype=torch.uint8))
        assert [tensor.device.type for tensor in spill._tensors] == ["cpu", "cpu", "meta", "meta", "meta"]
        assert file.tell() == 20 and file.getvalue() == bytes([3] * 10 + [4] * 10)
        spill._tensors[2:3] = []  # a real one on no device
        assert [int(tensor[0]) for tensor in spill.read()] == [0, 1, 3, 4]


def test_tensors_of_inference_can_be_used_by_autograd() -> None:
    spill = Spill(io.BytesIO(), [Shelf(CPU, 100)])
    with torch.inference_mode():
        spill.write(torch.ones(3))
    (read,) = spill.read()
    weight = torch.ones(3, requires_grad=True)
    (weight * read).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [1, 1, 1]


def test_a_card_has_memory_before_the_file_and_the_processor_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the card, then pinned memory."""

    class Card:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    monkeypatch.setattr(spill_module, "available_memory", lambda: 8 * 2**30)
    card = torch.device("cuda", 1)
    assert shelves_for(CPU) == []
    assert shelves_for(card) == [Shelf(card, 10 * 2**30), Shelf(CPU, 2 * 2**30, pin=True)]
