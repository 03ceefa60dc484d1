# Floor 0.7: layers with a leading member axis: K models side by side, one generator each.
"""The building blocks of models that are trained in lockstep.

Every parameter has the members first, (K, ...), and every member draws its random numbers from a generator
of its own, so that a member is the same whether it is trained alone or among others.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def generators(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator per member."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def draw(members: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), each member's from its own generator: (K, *shape)."""
    return torch.stack([torch.rand(shape, generator=each, device=each.device) for each in members])


class Linear(nn.Module):
    """K linear layers side by side, initialised as torch.nn.Linear does.

    zero: start at zero; bias: false where nothing could tell it, as on scores that go into a softmax: its gradient
        would be rounding alone, which Adam turns into steps
    Shapes: (G, n, inputs) -> (K, n, outputs); see `product`
    """

    bias: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        members: Sequence[torch.Generator],
        zero: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(inputs)
        self.weight = nn.Parameter((2 * draw(members, inputs, outputs) - 1) * bound)
        if bias:
            self.bias = nn.Parameter((2 * draw(members, 1, outputs) - 1) * bound)
        else:
            self.register_buffer("bias", self.weight.new_zeros(len(members), 1, outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x @ weight + bias` for each member, with operands in the precision of `x`.

    Shapes: x (G, n, I), weight (K, I, O), bias (K, 1, O) -> (K, n, O); see `product`
    """
    if len(x) == len(weight):
        return torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))
    return product(x, weight) + bias.to(x.dtype)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight` for each member; what members share is multiplied once, with the weights of all of them.

    Shapes: x (G, n, I), weight (K, I, O) -> (K, n, O), where each of the G is shared by K / G members side by side
    """
    if len(x) == len(weight):
        return bmm(x, weight.to(x.dtype))
    by_group = weight.unflatten(0, (len(x), -1)).transpose(1, 2)  # (G, I, K / G, O)
    wide = by_group.to(x.dtype, memory_format=torch.contiguous_format).flatten(2)
    return bmm(x, wide).unflatten(-1, (-1, weight.shape[-1])).transpose(1, 2).flatten(0, 1)


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """torch.bmm; a single product goes by torch.mm, whose gradient takes half the time on a CPU."""
    return torch.mm(x[0], y[0])[None] if len(x) == 1 else torch.bmm(x, y)


def _tanh_(x: Tensor) -> Tensor:
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


class _Activated(torch.autograd.Function):
    """An activation in float32, member by member, so that what lies between stays in the cache."""

    KINDS: ClassVar[dict[Callable[[Tensor], Tensor], Any]] = {
        torch.tanh: (_tanh_, torch.ops.aten.tanh_backward),
        torch.sigmoid: (Tensor.sigmoid_, torch.ops.aten.sigmoid_backward),
    }

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, kind: Callable[[Tensor], Tensor]) -> Tensor:
        in_place, ctx.gradient = _Activated.KINDS[kind]
        y = torch.empty(x.shape, dtype=x.dtype)
        for member, shift, result in zip(x, bias, y, strict=True):
            result.copy_(in_place(torch.add(member, shift)))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        inner = ctx.gradient(gradient, *ctx.saved_tensors)
        return inner, inner.sum(1, keepdim=True).float(), None


def activated(x: Tensor, bias: Tensor, kind: Callable[[Tensor], Tensor]) -> Tensor:
    """torch.tanh or torch.sigmoid of `x + bias`, in the precision of `x`.

    Shapes: x (K, n, O), bias (K, 1, O) -> (K, n, O)
    On a CPU, torch's own tanh takes up to ten times as long as its sigmoid, which gives the same.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return kind(x + bias.to(x.dtype))
    return _Activated.apply(x, bias, kind)


Dropout = Callable[[Tensor, float], Tensor]


def keep_all(x: Tensor, rate: float) -> Tensor:
    """The dropout of evaluation: none."""
    return x


def dropout_of(members: Sequence[torch.Generator]) -> Dropout:
    """Dropout whose noise comes from each member's generator; x (K, ...) -> (K, ...)."""

    def dropout(x: Tensor, rate: float) -> Tensor:
        if rate == 0:
            return x
        return x * ((draw(members, *x.shape[1:]) >= rate) / (1 - rate))

    return dropout
