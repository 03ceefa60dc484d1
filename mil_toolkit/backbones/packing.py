"""`pack`: a network for a processor, whose convolutions include the activation and the sum that follow them.

torch also reorders the weights of a convolution at every call. oneDNN computes a convolution with what
follows it at once, from weights that are reordered once. torch.compile calls oneDNN in the same way, but
needs a C++ compiler, which many computers do not have.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.fusion import IDENTITY, Activation, Followed, fuse_followers

_CONVOLUTION: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # not in every build of torch
_REORDER: Any = getattr(torch.ops.mkldnn, "_reorder_convolution_weight", None)


class PackedConvolution(nn.Module):
    """A convolution with weights in oneDNN's layout, followed by an activation.

    size: of the inputs (n, C, H, W) that the layout is chosen for; others are computed as well, more slowly
    """

    def __init__(self, layer: nn.Conv2d, activation: Activation, size: Sequence[int]):
        super().__init__()
        geometry = (layer.padding, layer.stride, layer.dilation)
        self._geometry = [*map(list, geometry), layer.groups]
        self._activation = activation
        self._weight = _REORDER(layer.weight.detach(), *self._geometry, list(size))
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        """Convolve `x`, add `summand` and apply the activation."""
        (name, constants), operands = self._activation, (self._weight, self._bias, *self._geometry)
        if summand is None:
            result: Tensor = _CONVOLUTION(x, *operands, name, constants, "")
        else:
            follows = None if name == IDENTITY.name else name
            result = _CONVOLUTION.binary(x, summand, *operands, "add", 1.0, follows, constants, "")
        return result


def pack(network: nn.Module, count: int, side: int) -> nn.Module:
    """Return the network with packed convolutions; the outputs are equal up to rounding.

    network: in evaluation mode, on a processor, in the precision and memory layout of its inputs
    count, side: of the images that it will be given at once, (count, 3, side, side)

    Returns the network itself if its precision has no such convolutions here or its forward cannot be traced.
    """
    if _CONVOLUTION is None or _REORDER is None or not _is_supported({p.dtype for p in network.parameters()}):
        return network

    def packed(followed: Followed) -> nn.Module:
        return PackedConvolution(followed.layer, followed.activation, (count, *followed.size))

    return fuse_followers(network, side, packed)


def _is_supported(dtypes: set[torch.dtype]) -> bool:
    if dtypes == {torch.bfloat16}:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtypes == {torch.float32} and torch.backends.mkldnn.is_available()
