"""Losses of classes against definitions, libraries and the binary loss; members do not affect each other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.head import Logits
from mil_toolkit.training import losses as binary
from mil_toolkit.training.class_losses import (
    cumulative_logits,
    ordered_log_probabilities,
    ordered_losses,
    softmax_losses,
)

LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 2])
TWO = torch.tensor([0, 1, 1, 1, 0, 0, 1])
K, B = 3, len(LABELS)


def outputs(width: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(K, B, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_softmax_loss_is_the_cross_entropy() -> None:
    logits = outputs(3)
    expected = [functional.cross_entropy(own, LABELS, reduction="none") for own in logits]
    torch.testing.assert_close(softmax_losses(logits, LABELS), torch.stack(expected))


@pytest.mark.parametrize("auxiliary", [0.0, 0.5])
def test_two_classes_have_the_loss_and_the_gradient_of_a_binary_outcome(auxiliary: float) -> None:
    config = HeadConfig(auxiliary=auxiliary)
    weights = torch.tensor([[1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 1.0]] * K, dtype=torch.float64)
    parts = [outputs(1, seed)[..., 0].requires_grad_() for seed in range(3)]
    expected = binary.member_losses(Logits(*parts), TWO.double(), weights, config)
    own = [part.detach().clone().requires_grad_() for part in parts]
    two = Logits(*(torch.stack([torch.zeros_like(part), part], -1) for part in own))
    found = binary.member_losses(two, TWO, weights, config, softmax_losses)
    torch.testing.assert_close(found, expected)
    expected.sum().backward()
    found.sum().backward()
    for one, other in zip(parts, own, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_two_ordered_classes_have_the_loss_of_a_binary_outcome() -> None:
    logits = outputs(1)
    sign = 1 - 2 * TWO.double()
    torch.testing.assert_close(ordered_losses(logits, TWO), functional.softplus(logits[..., 0] * sign))


def test_the_cumulative_logits_fall_and_give_the_probabilities() -> None:
    values = outputs(3)
    above = cumulative_logits(values)
    assert (above.diff(dim=-1) < 0).all()
    tail = torch.cat([torch.ones(K, B, 1), above.sigmoid(), torch.zeros(K, B, 1)], -1)
    torch.testing.assert_close(ordered_log_probabilities(values).exp(), tail[..., :-1] - tail[..., 1:])
    torch.testing.assert_close(
        ordered_log_probabilities(values).exp().sum(-1), torch.ones(K, B, dtype=torch.float64)
    )


def test_extreme_outputs_keep_finite_losses_and_gradients() -> None:
    values = torch.tensor([[[300.0, -300.0], [-300.0, 300.0], [0.0, -300.0]]], requires_grad=True)
    loss = ordered_losses(values, torch.tensor([0, 2, 1]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert values.grad is not None
    assert values.grad.isfinite().all()


LOSSES: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "softmax": (3, softmax_losses),
    "ordered": (2, ordered_losses),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_member_has_the_loss_that_it_has_alone(name: str) -> None:
    width, loss = LOSSES[name]
    values = outputs(width)
    together = loss(values, LABELS)
    for place in range(K):
        assert torch.equal(together[place], loss(values[place : place + 1], LABELS)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_differences(name: str) -> None:
    width, loss = LOSSES[name]
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), outputs(width).requires_grad_())
