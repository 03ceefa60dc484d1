"""Networks for cuDNN's fused kernels, with stand-ins that compute the same on the CPU."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.cudnn_fusion import CudnnConvolution, fuse_for_cudnn
from mil_toolkit.backbones.embedder import fuse_batch_norm

SIDE = 32
Geometry = Sequence[int]
_Calls = dict[str, int]


@pytest.fixture(name="calls")
def _calls(monkeypatch: pytest.MonkeyPatch) -> _Calls:
    """Replace the two kernels; returns how often each was called."""
    calls = {"relu": 0, "add": 0}

    def relu(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Geometry | int) -> Tensor:
        calls["relu"] += 1
        return conv2d(x, weight, bias, *geometry).relu()  # type: ignore[call-overload,no-any-return]

    def add_relu(
        x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Tensor | None, *geometry: Geometry | int
    ) -> Tensor:
        calls["add"] += 1
        convolved = conv2d(x, weight, bias, *geometry)  # type: ignore[call-overload]
        assert z.shape == convolved.shape and alpha == 1
        return (convolved + z).relu()  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    return calls


def fused_and_plain(network: nn.Module, calls: _Calls) -> tuple[nn.Module, bool]:
    """Return the fused network, and whether it computes the same bits; `calls` are those of one batch."""
    images = torch.randn(2, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    fused = fuse_for_cudnn(network, 2, SIDE)
    calls.update(relu=0, add=0)
    with torch.inference_mode():
        return fused, torch.equal(fused(images.clone()), network(images.clone()))


# ReLUs after a convolution alone, and after the sum of a residual block.
@pytest.mark.parametrize(
    ("name", "alone", "summed"), [("resnet18", 9, 8), ("resnet34", 17, 16), ("resnet50", 33, 16)]
)
def test_every_relu_of_a_resnet_is_part_of_a_convolution(
    name: str, alone: int, summed: int, calls: _Calls
) -> None:
    network = fuse_batch_norm(build_backbone(name, "random").network).to(memory_format=torch.channels_last)
    fused, same = fused_and_plain(network, calls)
    assert same and calls == {"relu": alone, "add": summed}
    kinds = [type(layer) for layer in fused.modules()]
    assert kinds.count(CudnnConvolution) == alone + summed and not {nn.ReLU, nn.BatchNorm2d} & {*kinds}
    assert {id(weight) for weight in fused.parameters()} == {id(weight) for weight in network.parameters()}


class _Block(nn.Module):
    """Convolutions whose followers cuDNN has no fused kernel for, and one at the end that has."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.clipped = nn.Conv2d(6, 6, 3, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding="same")
        self.reflected = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")
        self.summed = nn.Conv2d(6, 6, 3, padding=1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.strided = nn.Conv2d(6, 4, 3, stride=(1, 2), padding=(2, 1), dilation=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.reflected(torch.relu(self.same(nn.functional.relu6(self.grouped(x))))))
        x = nn.functional.silu(self.clipped(x))
        x = self.summed(x) + x
        x = self.twice(x)
        return torch.relu(self.strided(torch.relu(x) + x))


def test_only_what_cudnn_can_compute_is_fused(calls: _Calls) -> None:
    fused, same = fused_and_plain(_Block().eval(), calls)
    assert same and calls == {"relu": 1, "add": 0}
    assert [layer.layer for layer in fused.modules() if isinstance(layer, CudnnConvolution)]


def test_a_network_is_left_as_it_is_where_cudnn_has_no_kernel(caplog: pytest.LogCaptureFixture) -> None:
    """Here the CPU has none; the reason is logged."""
    network = fuse_batch_norm(build_backbone("resnet18", "random").network)
    with caplog.at_level("INFO", "mil_toolkit"):
        assert fuse_for_cudnn(network, 1, SIDE) is network
    assert "not fused" in caplog.text


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")],
)
def test_missing_memory_is_not_a_missing_kernel(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> Tensor:
        raise error

    monkeypatch.setattr(torch, "cudnn_convolution_relu", no_memory)
    with pytest.raises(type(error), match=r"CUD"):
        fuse_for_cudnn(fuse_batch_norm(build_backbone("resnet18", "random").network), 1, SIDE)


def test_a_network_without_such_convolutions_stays_as_it_is(calls: _Calls) -> None:
    """And one that cannot be traced."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x)) if x.sum() > 0 else x

    branching = Branching()
    assert fuse_for_cudnn(branching, 1, SIDE) is branching
    unfused = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Sigmoid()
    )
    assert fused_and_plain(unfused.eval(), calls) == (unfused, True)
