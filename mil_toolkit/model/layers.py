"""The building blocks of K models ("members") that are trained in lockstep.

The first axis of every parameter is that of the members, (K, ...). Each member draws its random numbers from
a generator of its own, so that it is the same whether it is trained alone or with others.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mil_toolkit.model.kernels import Activated, Activation, bmm


def generators(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """Return one seeded generator per member."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def draw(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Draw uniform numbers in [0, 1), each member's from its own generator: (K, *shape).

    >>> together = draw(generators([3, 1]), 2)
    >>> torch.equal(together[1:], draw(generators([1]), 2))
    True
    """
    return torch.stack(
        [torch.rand(shape, generator=generator, device=generator.device) for generator in generators]
    )


class Linear(nn.Module):
    """K linear layers side by side, initialised as torch.nn.Linear does.

    zero: start at zero
    bias: False where a bias has no effect, as on scores that go into a softmax. Its gradient would consist of
        rounding errors only, which Adam turns into steps.
    Shapes: (G, n, inputs) -> (K, n, outputs); see `linear`
    """

    bias: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generators: Sequence[torch.Generator],
        zero: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(inputs)
        self.weight = nn.Parameter((2 * draw(generators, inputs, outputs) - 1) * bound)
        if bias:
            self.bias = nn.Parameter((2 * draw(generators, 1, outputs) - 1) * bound)
        else:
            self.register_buffer("bias", self.weight.new_zeros(len(generators), 1, outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's layer to its input; see `linear` for the shapes."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute `x @ weight + bias` for each member, with operands in the precision of `x`.

    Shapes: x (G, n, I), weight (K, I, O), bias (K, 1, O) -> (K, n, O). Each of the G inputs is shared by K /
    G consecutive members.
    """
    if len(x) == len(weight):
        return torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))
    wide = bmm(x, side_by_side(weight, x))
    return wide.unflatten(-1, (-1, weight.shape[-1])).transpose(1, 2).flatten(0, 1) + bias.to(x.dtype)


def side_by_side(weight: Tensor, x: Tensor) -> Tensor:
    """Place the columns of the members that share an input next to each other, in the precision of `x`.

    Shapes: weight (K, I, O), x (G, ...) -> (G, I, K / G * O)
    """
    by_group = weight.unflatten(0, (len(x), -1)).transpose(1, 2)  # (G, I, K / G, O)
    return by_group.to(x.dtype, memory_format=torch.contiguous_format).flatten(2)


def activated(x: Tensor, weight: Tensor, bias: Tensor, kind: Activation) -> Tensor:
    """Compute tanh or sigmoid of `x @ weight + bias` in the precision of `x`, members side by side.

    Shapes: x (G, n, I), weight (K, I, O), bias (K, 1, O) -> (G, n, K / G * O)
    """
    weight, bias = (side_by_side(parameter, x) for parameter in (weight, bias))
    if torch.compiler.is_compiling():
        return kind(torch.baddbmm(bias, x, weight))
    return Activated.apply(x, weight, bias, kind)


def scores(hidden: Tensor, weight: Tensor) -> Tensor:
    """Weight and sum each member's columns, all members in one product with a block-diagonal matrix.

    Shapes: hidden (G, n, K / G * H), members side by side, weight (K, H, C) -> (K * C, n) float32, the C
    scores of each member consecutive
    """
    columns = side_by_side(weight, hidden)  # (G, H, K / G * C)
    if len(weight) > len(hidden):
        by_score = columns.unflatten(-1, (-1, weight.shape[-1])).transpose(-1, -2)  # (G, H, C, K / G)
        blocks = torch.diag_embed(by_score).permute(0, 3, 1, 4, 2)  # (G, K / G, H, K / G, C)
        columns = blocks.flatten(1, 2).flatten(2)  # (G, K / G * H, K / G * C)
    by_group = bmm(hidden, columns).transpose(1, 2)  # (G, K / G * C, n)
    return by_group.to(torch.float32, memory_format=torch.contiguous_format).flatten(0, 1)


Dropout = Callable[[Tensor, float], Tensor]


def keep_all(x: Tensor, rate: float) -> Tensor:
    """Return `x` unchanged: the dropout of evaluation."""
    return x


def dropout_of(generators: Sequence[torch.Generator]) -> Dropout:
    """Return a dropout of x (K, ...) that draws each member's noise from its own generator."""

    def dropout(x: Tensor, rate: float) -> Tensor:
        if rate == 0:
            return x
        kept = draw(generators, *x.shape[1:]) >= rate
        return x * (kept.to(x.device, non_blocking=True) / (1 - rate))

    return dropout


def drawn_dropout(kept: Iterable[Tensor]) -> Dropout:
    """Return a dropout of x (K, ...) that keeps what was drawn before.

    kept: one tensor (K, ...) bool for each call with a rate above zero, in the order of the calls
    """
    left = iter(kept)

    def dropout(x: Tensor, rate: float) -> Tensor:
        return x if rate == 0 else x * (next(left) / (1 - rate))

    return dropout
