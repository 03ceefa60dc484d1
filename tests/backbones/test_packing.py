"""Packed convolutions compute what the layers compute, whatever surrounds them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mil_toolkit.backbones import packing
from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder, fuse_batch_norm
from mil_toolkit.backbones.packing import PackedConvolution, pack

SIDE = 12
needs_onednn = pytest.mark.skipif(packing._CONVOLUTION is None, reason="torch is built without oneDNN")


class _Block(nn.Module):
    """Two convolutions, and a way to join them."""

    def __init__(self, join: Callable[["_Block", Tensor], Tensor]):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.relu6, self.silu = nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU()
        self.same = nn.Conv2d(3, 3, 3, padding="same")
        self.reflected = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
        self.grouped = nn.Conv2d(3, 3, 3, stride=2, padding=1, dilation=2, groups=3, bias=False)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x)


def _added_to_input(block: _Block, x: Tensor) -> Tensor:
    x += block.first(x)  # changes x, which is used again
    return block.second(x) + x


def _twice_the_same(block: _Block, x: Tensor) -> Tensor:
    y = block.first(x)
    return y + y


def _used_twice(block: _Block, x: Tensor) -> Tensor:
    y = block.first(x)
    return block.relu6(y) + y


def _changed_in_between(block: _Block, x: Tensor) -> Tensor:
    shortcut = block.first(x)
    y = block.second(block.relu(x))  # the input of the shortcut changes after the shortcut is computed
    return y + shortcut


JOINS: dict[str, tuple[Callable[[_Block, Tensor], Tensor], int]] = {
    "activation": (lambda block, x: block.relu(block.first(x)), 1),
    "function": (lambda block, x: torch.relu(block.first(x)), 1),
    "clipped": (lambda block, x: block.relu6(20 * x + block.relu6(block.first(20 * x))), 1),
    "silu": (lambda block, x: block.silu(block.first(x)), 1),
    "residual": (lambda block, x: block.relu(block.second(block.relu(block.first(x))) + x), 2),
    "two branches": (lambda block, x: block.relu(block.first(x) + block.second(x)), 2),
    "twice the same": (_twice_the_same, 1),
    "one layer twice": (lambda block, x: block.first(block.relu(block.first(x))), 2),
    "broadcast": (lambda block, x: block.first(x) + block.second(x).mean((2, 3), keepdim=True), 2),
    "a number": (lambda block, x: block.relu(block.first(x) + 0.5), 1),
    "a multiple": (lambda block, x: torch.add(x, block.first(x), alpha=2), 1),
    "used twice": (_used_twice, 1),
    "added to the input": (_added_to_input, 2),
    "changed in between": (_changed_in_between, 2),
    "same": (lambda block, x: block.relu(block.same(x)), 0),
    "reflected": (lambda block, x: block.relu(block.reflected(x)), 0),
    "grouped": (lambda block, x: block.relu(block.grouped(x)), 1),
}


@needs_onednn
@pytest.mark.parametrize("name", JOINS)
def test_a_packed_block_computes_what_the_block_computes(name: str) -> None:
    join, packable = JOINS[name]
    torch.manual_seed(0)
    block = _Block(join).eval()
    x = torch.randn(2, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    packed = pack(block, 2, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(packed(x.clone()), block(x.clone()), rtol=1e-5, atol=1e-5)
    assert sum(isinstance(layer, PackedConvolution) for layer in packed.modules()) == packable


@needs_onednn
def test_a_packed_network_takes_batches_of_other_sizes() -> None:
    block = _Block(JOINS["residual"][0]).eval()
    packed = pack(block, 4, SIDE)
    x = torch.randn(1, 3, SIDE + 5, SIDE + 5)
    with torch.no_grad():
        torch.testing.assert_close(packed(x.clone()), block(x.clone()), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_packed_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that cannot be traced, other precisions, and builds of torch without oneDNN."""
    branching = _Block(lambda block, x: block.first(x) if x.sum() > 0 else x)
    assert pack(branching, 1, SIDE) is branching
    half = _Block(JOINS["residual"][0]).half()
    assert pack(half, 1, SIDE) is half
    monkeypatch.setattr(packing, "_CONVOLUTION", None)
    block = _Block(JOINS["residual"][0])
    assert pack(block, 1, SIDE) is block


@needs_onednn
def test_a_packed_resnet_has_only_packed_convolutions_and_their_weights() -> None:
    """Every activation, sum and BatchNorm is part of a convolution."""
    network = fuse_batch_norm(build_backbone("resnet18", "random").network)
    kinds = [type(layer) for layer in pack(network, 2, 64).modules()]
    assert kinds.count(PackedConvolution) == 20
    assert not {nn.Conv2d, nn.ReLU, nn.BatchNorm2d} & {*kinds}


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1 - 1e-6), (torch.bfloat16, 0.999)])
def test_embeddings_are_those_of_the_network(dtype: torch.dtype, least: float) -> None:
    backbone, cpu = build_backbone("resnet18", "random"), torch.device("cpu")
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    exact = Embedder(backbone, cpu, torch.float32)(pixels).float()
    packed = Embedder(backbone, cpu, dtype, (3, 64))(pixels).float()
    assert torch.cosine_similarity(packed, exact).min() > least
