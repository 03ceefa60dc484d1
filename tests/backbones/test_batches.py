"""Batches that are padded to a fixed size."""

import pytest
import torch
from torch import Tensor

from mil_toolkit.backbones import batches
from mil_toolkit.backbones.batches import in_whole_batch


class _Watched(torch.nn.Module):
    """A network that takes note of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 1)
        self.seen: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), x.is_contiguous(memory_format=torch.channels_last)))
        result: Tensor = self.layer(x).mean((2, 3))
        return result


def images(count: int, device: str = "cpu") -> Tensor:
    x = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return x.to(device, memory_format=torch.channels_last)


def test_only_devices_other_than_a_cpu_get_padded_batches() -> None:
    for device, seen in (("cpu", 2), ("meta", 5)):
        network = _Watched().to(device)
        assert len(in_whole_batch(network, images(2, device), 5)) == 2
        assert len(in_whole_batch(network, images(5, device), 5)) == 5
        assert len(in_whole_batch(network, images(3, device), None)) == 3
        assert network.seen == [(seen, True), (5, True), (3, True)]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_padding_changes_neither_results_nor_gradients(size: int) -> None:
    network = _Watched()
    x = images(2).requires_grad_()
    padded = network(batches._padded(x, size))[:2]
    for one, other in (
        (padded, network(x)),
        *zip(gradients(network, x, padded), gradients(network, x, network(x)), strict=True),
    ):
        torch.testing.assert_close(one, other)


def gradients(network: _Watched, x: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), [x, *network.parameters()]))


def test_integers_are_padded_too() -> None:
    pixels = torch.ones(1, 4, 4, 3, dtype=torch.uint8)
    padded = batches._padded(pixels, 3)
    assert padded.dtype == torch.uint8 and padded.sum((1, 2, 3)).tolist() == [48, 0, 0]
