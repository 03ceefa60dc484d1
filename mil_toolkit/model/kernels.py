"""Batched products of (G, n, I) and (G, I, P): `bmm`; `Activated`, with a bias and an activation."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]  # a key of _GRADIENTS
# oneDNN's product adds the bias and applies the activation before it writes the result. On a CPU this is
# faster than three separate steps, especially with tanh. Not every build of torch has it, nor every processor
# in bfloat16.
_FUSED: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_FUSED_DTYPES: set[torch.dtype] = set() if _FUSED is None else {torch.float32}
if _FUSED is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _FUSED_DTYPES.add(torch.bfloat16)
_GRADIENTS: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    torch.tanh: torch.ops.aten.tanh_backward,
    torch.sigmoid: torch.ops.aten.sigmoid_backward,
}


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """Compute torch.bmm, a single product with torch.mm, whose gradient takes half the time on a CPU."""
    return torch.mm(x.squeeze(0), y.squeeze(0)).unsqueeze(0) if len(x) == 1 else torch.bmm(x, y)


class Activated(torch.autograd.Function):
    """`activated_product` with gradients; keeps only its operands and its result for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kind: Activation) -> Tensor:
        """Compute `activated_product`."""
        y = activated_product(x, weight, bias, kind)
        ctx.save_for_backward(x, weight, y)
        ctx.gradient = _GRADIENTS[kind]
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        """Return the gradients with respect to `x` (if it needs one), `weight` and `bias`."""
        x, weight, y = ctx.saved_tensors
        inner = ctx.gradient(gradient, y)
        x_gradient = _bare_product(inner, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return x_gradient, _bare_product(x.transpose(1, 2), inner), inner.sum(1, keepdim=True), None


def activated_product(x: Tensor, weight: Tensor, bias: Tensor, kind: Activation) -> Tensor:
    """Return `kind(x @ weight + bias)`, without gradients.

    Shapes: x (G, n, I), weight (G, I, P), bias (G, 1, P) -> (G, n, P)
    """
    if _is_fused(x):
        return _by_onednn(x, weight, bias[:, 0], kind.__name__)
    return kind(torch.baddbmm(bias, x, weight))


def _bare_product(x: Tensor, y: Tensor) -> Tensor:
    """Compute `bmm` without gradients."""
    # torch computes float32 products with MKL, which takes twice as long as oneDNN on AMD processors.
    if _is_fused(x) and x.dtype == torch.float32:
        return _by_onednn(x, y, [None] * len(x), "none")
    return bmm(x, y)


def _is_fused(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _FUSED_DTYPES


def _by_onednn(x: Tensor, weight: Tensor, biases: Iterable[Tensor | None], kind: str) -> Tensor:
    operands = zip(x, weight.transpose(1, 2), biases, strict=True)
    products = [_FUSED(*group, kind, [], "") for group in operands]
    return torch.stack(products) if len(products) > 1 else products[0].unsqueeze(0)
