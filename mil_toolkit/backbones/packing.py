"""`pack`: a network for a processor, whose convolutions include the activation and the sum that follow them.

torch passes through the output of a convolution again for its activation, and again for the sum of a
residual block; it also reorders the weights of a convolution at every call. oneDNN computes all three at
once, from weights that are reordered once. torch.compile calls oneDNN in the same way, but needs a C++
compiler, which many computers do not have.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from mil_toolkit.backbones.tracing import UNTRACEABLE, WholeLayers

_CONVOLUTION: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # not in every build of torch
_REORDER: Any = getattr(torch.ops.mkldnn, "_reorder_convolution_weight", None)


class Activation(NamedTuple):
    """An activation by oneDNN's name, and its constants."""

    name: str
    constants: Sequence[float] = ()


_IDENTITY = Activation("none")
_ACTIVATIONS: dict[object, Activation] = {
    nn.ReLU: Activation("relu"),
    functional.relu: Activation("relu"),
    torch.relu: Activation("relu"),
    nn.ReLU6: Activation("hardtanh", (0.0, 6.0)),
    nn.SiLU: Activation("swish"),
}

_SUMS: Sequence[object] = (operator.add, operator.iadd, torch.add)


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
            follows = None if name == _IDENTITY.name else name
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
    root = nn.Sequential(network)  # arguments beyond the images keep their defaults
    try:
        packed = fx.GraphModule(root, WholeLayers().trace(root))
    except UNTRACEABLE:
        return network
    _remove_identities(packed)
    weight = next(network.parameters())
    with torch.no_grad():
        ShapeProp(packed).propagate(weight.new_zeros(1, 3, side, side))
    for node in [*packed.graph.nodes]:
        if _is_packable(packed, node):
            _replace(packed, node, count)
    packed.delete_all_unused_submodules()
    packed.recompile()
    return packed


def _is_supported(dtypes: set[torch.dtype]) -> bool:
    if dtypes == {torch.bfloat16}:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtypes == {torch.float32} and torch.backends.mkldnn.is_available()


def _module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _remove_identities(packed: fx.GraphModule) -> None:
    """Remove what does nothing in evaluation, such as a BatchNorm that was fused."""
    for node in [*packed.graph.nodes]:
        if isinstance(_module(packed, node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            packed.graph.erase_node(node)


def _is_packable(packed: fx.GraphModule, node: fx.Node) -> bool:
    layer = _module(packed, node)
    # A subclass, such as timm's Conv2dSame, may compute something else.
    plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and len(node.args) == 1 and not node.kwargs


def _replace(packed: fx.GraphModule, node: fx.Node, count: int) -> None:
    """Replace a convolution, and the sum and the activation that follow it, for batches of `count` images."""
    layer, (entering,) = _module(packed, node), node.args
    assert isinstance(layer, nn.Conv2d) and isinstance(entering, fx.Node)
    last, arguments, activation = node, [entering], _IDENTITY
    if (follower := _only_user(last)) and (summand := _summand(follower, last)):
        last, arguments = follower, [entering, summand]
    if (follower := _only_user(last)) and (kind := _ACTIVATIONS.get(_kind(packed, follower))):
        last, activation = follower, kind
    size = (count, *entering.meta["tensor_meta"].shape[1:])
    name = f"packed_{node.name}"
    packed.add_submodule(name, PackedConvolution(layer, activation, size))
    with packed.graph.inserting_after(last):
        replacement = packed.graph.call_module(name, tuple(arguments))
    replacement.meta = dict(last.meta)
    last.replace_all_uses_with(replacement)
    packed.graph.eliminate_dead_code()


def _only_user(node: fx.Node) -> fx.Node | None:
    """Return the next node if it is the only user of this one; nothing in between changes an operand."""
    return node.next if [*node.users] == [node.next] else None


def _summand(node: fx.Node, one: fx.Node) -> fx.Node | None:
    """Return what a node adds to `one`; None if it is not a sum with another tensor of this shape."""
    if node.op != "call_function" or node.target not in _SUMS or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if node.target is operator.iadd and first is not one:  # changes an operand that may be used later
        return None
    other = second if first is one else first
    same = isinstance(other, fx.Node) and other is not one and _shape(other) == _shape(one)
    return other if same and isinstance(other, fx.Node) else None


def _shape(node: fx.Node) -> Sequence[int] | None:
    return getattr(node.meta.get("tensor_meta"), "shape", None)


def _kind(packed: fx.GraphModule, node: fx.Node) -> object:
    """Return a node's key in `_ACTIVATIONS`, if it is an activation."""
    if node.op == "call_function":
        return node.target if len(node.args) == 1 else None
    return type(_module(packed, node))
