"""Optimizers that update K members at once."""

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from mil_toolkit.config.head import HeadConfig


class Optimizer:
    """SGD with momentum, Adam or AdamW for K members that train in lockstep.

    Each member's P parameters form one row of a (K, P) tensor, which torch's fused kernels update with
    torch's default constants. A member without training patients in a mini-batch keeps its parameters, its
    moments and its step count.

    values: (K, P) parameters; first, second: (K, P) moments; steps: (K,) number of updates
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, model: nn.Module, config: HeadConfig):
        self.config = config
        self.parameters = list(model.parameters())
        self.values = flatten(self.parameters)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = self.values.new_zeros(len(self.values))
        self._rows = self._unbound()

    def _unbound(self) -> list[list[Tensor]]:
        """Return the values, moments and steps of each member, views."""
        return [list(tensor.unbind()) for tensor in (self.values, self.first, self.second, self.steps)]

    def share(self, values: Tensor) -> None:
        """Use the rows (K, P) of a tensor with equal values, such as that of a larger population."""
        view_in(self.parameters, values)
        self.values = values
        self._rows = self._unbound()

    def step(self, loss: Tensor, rate: float, active: Sequence[bool]) -> None:
        """Update the active members along the gradient of `loss`, the sum of all members' losses.

        rate: learning rate; active: K booleans
        """
        self.move(torch.autograd.grad(loss, self.parameters), rate, active)

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor], rate: float, active: Sequence[bool]) -> None:
        """Update the active members with these gradients, one for each parameter of the model.

        rate: learning rate; active: K booleans
        """
        self.update(torch.cat([part.flatten(1) for part in gradients], 1), rate, active)

    @torch.no_grad()
    def update(self, gradient: Tensor, rate: float | Tensor, active: Sequence[bool]) -> None:
        """Update the active members with the gradient (K, P); see `move`.

        rate: also a tensor () on the device, so that a CUDA graph reads it at each call
        """
        values, first, second, steps, gradient_rows = (
            list(compress(rows, active)) for rows in (*self._rows, gradient.unbind())
        )
        if self.config.optimizer == "sgd":
            self._sgd(values, gradient_rows, first, rate)
        else:
            self._adam(values, gradient_rows, first, second, steps, rate)

    def _sgd(
        self,
        values: list[Tensor],
        gradients: list[Tensor],
        first: list[Tensor],
        rate: float | Tensor,
    ) -> None:
        sgd(
            values,
            gradients,
            [*first],
            lr=rate,
            momentum=self.config.momentum,
            dampening=0,
            nesterov=False,
            weight_decay=self.config.weight_decay,
            maximize=False,
            fused=True,
        )

    def _adam(
        self,
        values: list[Tensor],
        gradients: list[Tensor],
        first: list[Tensor],
        second: list[Tensor],
        steps: list[Tensor],
        rate: float | Tensor,
    ) -> None:
        beta1, beta2 = self.BETAS
        adam(
            values,
            gradients,
            first,
            second,
            [],
            steps,
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            eps=self.EPSILON,
            weight_decay=self.config.weight_decay,
            decoupled_weight_decay=self.config.optimizer == "adamw",
            amsgrad=False,
            maximize=False,
            fused=True,
        )


def flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Move parameters of shape (K, ...) into one tensor (K, P) and make them views of it.

    An update then takes a few operations instead of a few for every parameter.
    """
    values = torch.cat([parameter.detach().flatten(1) for parameter in parameters], 1)
    view_in(parameters, values)
    return values


def view_in(parameters: Sequence[nn.Parameter], values: Tensor) -> None:
    """Make parameters of shape (K, ...) views of the columns of a tensor (K, P)."""
    widths = [parameter[0].numel() for parameter in parameters]
    for parameter, columns in zip(parameters, values.split(widths, 1), strict=True):
        parameter.data = columns.view(parameter.shape)
