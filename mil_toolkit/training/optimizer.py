"""Optimizers that update K members at once."""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from mil_toolkit.config import HeadConfig


class Optimizer:
    """SGD with momentum, Adam or AdamW: torch's fused updates, with its default constants, of one tensor a member.

    A member without training patients in a mini-batch keeps its weights, its moments and its step count.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, model: nn.Module, config: HeadConfig):
        self.config = config
        self.parameters = list(model.parameters())
        self.values = flatten(self.parameters)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = self.values.new_zeros(len(self.values))

    def step(self, loss: Tensor, rate: float, active: Sequence[bool]) -> None:
        """Move the members that are `active`, K truths, against the gradient of `loss`, the sum over members."""
        self.move(torch.autograd.grad(loss, self.parameters), rate, active)

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor], rate: float, active: Sequence[bool]) -> None:
        """Move the members that are `active`, K truths, against these gradients of the parameters."""
        gradient = torch.cat([each.flatten(1) for each in gradients], 1)  # (K, P)
        state = (self.values, gradient, self.first, self.second, self.steps)
        moving = [list(compress(each.unbind(), active)) for each in state]
        update = self._sgd if self.config.optimizer == "sgd" else self._adam
        update(*moving, lr=rate, weight_decay=self.config.weight_decay, maximize=False, fused=True)

    def _sgd(self, values: list[Tensor], *state: list[Tensor], **about: Any) -> None:
        gradients, first, _, _ = state
        sgd(values, gradients, [*first], momentum=self.config.momentum, dampening=0, nesterov=False, **about)

    def _adam(self, values: list[Tensor], *state: list[Tensor], **about: Any) -> None:
        gradients, first, second, steps = state
        beta, gamma = self.BETAS
        decoupled = self.config.optimizer == "adamw"
        about |= {"beta1": beta, "beta2": gamma, "eps": self.EPSILON, "amsgrad": False}
        adam(values, gradients, first, second, [], steps, decoupled_weight_decay=decoupled, **about)


def flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Move parameters (K, ...) into one tensor (K, P), of which they become views.

    An optimizer then needs a handful of operations a step.
    """
    values = torch.cat([each.detach().flatten(1) for each in parameters], 1)
    for each, value in zip(
        parameters, values.split([each[0].numel() for each in parameters], 1), strict=True
    ):
        each.data = value.view(each.shape)
    return values
