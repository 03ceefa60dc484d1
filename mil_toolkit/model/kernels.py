"""`bmm`, and `Activated` with a bias and an activation behind the product; all over (G, n, I) and (G, I, P)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]  # one of those in _GRADIENTS
# oneDNN's product that adds the bias and activates before it writes: quicker on a CPU than one after the other, most of
# all with tanh. Not in every build of torch, and in bfloat16 not on every processor.
_FUSED: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_FUSED_DTYPES: set[torch.dtype] = set() if _FUSED is None else {torch.float32}
if _FUSED is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _FUSED_DTYPES.add(torch.bfloat16)
_GRADIENTS: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    torch.tanh: torch.ops.aten.tanh_backward,
    torch.sigmoid: torch.ops.aten.sigmoid_backward,
}


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """torch.bmm; a single product goes by torch.mm, whose gradient takes half the time on a CPU."""
    return torch.mm(x.squeeze(0), y.squeeze(0)).unsqueeze(0) if len(x) == 1 else torch.bmm(x, y)


class Activated(torch.autograd.Function):
    """`activated_product` with gradients, for which no more than its operands and its result is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kind: Activation) -> Tensor:
        y = activated_product(x, weight, bias, kind)
        ctx.save_for_backward(x, weight, y)
        ctx.gradient = _GRADIENTS[kind]
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        inner = ctx.gradient(gradient, y)
        of_x = _bare_product(inner, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return of_x, _bare_product(x.transpose(1, 2), inner), inner.sum(1, keepdim=True), None


def activated_product(x: Tensor, weight: Tensor, bias: Tensor, kind: Activation) -> Tensor:
    """`kind` of `x @ weight + bias`, without gradients: (G, n, I), (G, I, P), (G, 1, P) -> (G, n, P)."""
    if _is_fused(x):
        return _by_onednn(x, weight, bias[:, 0], kind.__name__)
    return kind(torch.baddbmm(bias, x, weight))


def _bare_product(x: Tensor, y: Tensor) -> Tensor:
    """`bmm` without gradients."""
    # In float32 that goes by MKL, which on AMD's processors takes twice as long as oneDNN.
    if _is_fused(x) and x.dtype == torch.float32:
        return _by_onednn(x, y, [None] * len(x), "none")
    return bmm(x, y)


def _is_fused(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _FUSED_DTYPES


def _by_onednn(x: Tensor, weight: Tensor, biases: Iterable[Tensor | None], kind: str) -> Tensor:
    groups = zip(x, weight.transpose(1, 2), biases, strict=True)
    done = [_FUSED(*each, kind, [], "") for each in groups]
    return torch.stack(done) if len(done) > 1 else done[0].unsqueeze(0)
