"""`fuse_followers`: convolutions that include the sum and the activation that follow them.

torch passes through the output of a convolution again for its activation, and again for the sum of a
residual block. Libraries such as oneDNN and cuDNN compute all three at once.
"""

import operator
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from mil_toolkit.backbones.tracing import UNTRACEABLE, WholeLayers


class Activation(NamedTuple):
    """An activation by oneDNN's name, and its constants."""

    name: str
    constants: Sequence[float] = ()


IDENTITY, RELU = Activation("none"), Activation("relu")
_ACTIVATIONS: dict[object, Activation] = {
    nn.ReLU: RELU,
    functional.relu: RELU,
    torch.relu: RELU,
    nn.ReLU6: Activation("hardtanh", (0.0, 6.0)),
    nn.SiLU: Activation("swish"),
}

_SUMS: Sequence[object] = (operator.add, operator.iadd, torch.add)


class Followed(NamedTuple):
    """A convolution, whether a sum with another tensor follows it, and the activation after that.

    size: of its inputs (C, H, W)
    """

    layer: nn.Conv2d
    summed: bool
    activation: Activation
    size: Sequence[int]


class Fuse(Protocol):
    """Returns a module that computes all of `Followed`, (input[, summand]); None to leave it as it is."""

    def __call__(self, followed: Followed, /) -> nn.Module | None: ...


def fuse_followers(network: nn.Module, side: int, fuse: Fuse) -> nn.Module:
    """Return the network with the convolutions that `fuse` replaces; the outputs are equal up to rounding.

    network: in evaluation mode, in the precision of its inputs (n, 3, side, side)

    Returns the network itself if its forward cannot be traced.
    """
    root = nn.Sequential(network)  # arguments beyond the images keep their defaults
    try:
        fused = fx.GraphModule(root, WholeLayers().trace(root))
    except UNTRACEABLE:
        return network
    _remove_identities(fused)
    weight = next(network.parameters())
    with torch.no_grad():
        ShapeProp(fused).propagate(weight.new_zeros(1, 3, side, side))
    for node in [*fused.graph.nodes]:
        if _is_plain(fused, node):
            _replace(fused, node, fuse)
    fused.delete_all_unused_submodules()
    fused.recompile()
    return fused


def _module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _remove_identities(fused: fx.GraphModule) -> None:
    """Remove what does nothing in evaluation, such as a BatchNorm that was fused."""
    for node in [*fused.graph.nodes]:
        if isinstance(_module(fused, node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            fused.graph.erase_node(node)


def _is_plain(fused: fx.GraphModule, node: fx.Node) -> bool:
    layer = _module(fused, node)
    # A subclass, such as timm's Conv2dSame, may compute something else.
    plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and len(node.args) == 1 and not node.kwargs


def _replace(fused: fx.GraphModule, node: fx.Node, fuse: Fuse) -> None:
    """Replace a convolution, and the sum and the activation that follow it."""
    layer, (entering,) = _module(fused, node), node.args
    assert isinstance(layer, nn.Conv2d) and isinstance(entering, fx.Node)
    last, arguments, activation = node, [entering], IDENTITY
    if (follower := _only_user(last)) and (summand := _summand(follower, last)):
        last, arguments = follower, [entering, summand]
    if (follower := _only_user(last)) and (kind := _ACTIVATIONS.get(_kind(fused, follower))):
        last, activation = follower, kind
    size = entering.meta["tensor_meta"].shape[1:]
    module = fuse(Followed(layer, len(arguments) > 1, activation, size))
    if module is None:
        return
    name = f"fused_{node.name}"
    fused.add_submodule(name, module)
    with fused.graph.inserting_after(last):
        replacement = fused.graph.call_module(name, tuple(arguments))
    replacement.meta = dict(last.meta)
    last.replace_all_uses_with(replacement)
    fused.graph.eliminate_dead_code()


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


def _kind(fused: fx.GraphModule, node: fx.Node) -> object:
    """Return a node's key in `_ACTIVATIONS`, if it is an activation."""
    if node.op == "call_function":
        return node.target if len(node.args) == 1 else None
    return type(_module(fused, node))
