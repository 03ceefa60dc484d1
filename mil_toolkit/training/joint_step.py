"""What the update of a joint population on one mini-batch needs."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Dropout


@dataclass(frozen=True)
class JointInstances(Instances):
    """The instances of T trials, whose bags differ: x (K, n, D), bag (T, n), kept (K, n)."""

    def softmax(self, scores: Tensor) -> Tensor:
        """Apply a softmax to scores (K, n) over each bag's kept instances: (K, B, n), zero elsewhere."""
        if self.kept is not None:
            scores = scores.masked_fill(~self.kept, -torch.inf)
        by_trial = scores.unflatten(0, (len(self.bag), -1))[:, :, None]  # (T, K / T, 1, n)
        return (by_trial + self._outside()[:, None]).softmax(-1).flatten(0, 1)

    def _outside(self) -> Tensor:
        """Return `outside` of each trial, (T, B, n)."""
        trials, count = self.bag.shape
        outside = torch.full((trials, len(self.sizes), count), -torch.inf, device=self.bag.device)
        return outside.scatter_(1, self.bag[:, None], 0.0)

    @property
    def blocks(self) -> "Sequence[JointInstances]":
        """The instances, which are not divided."""
        return [self]

    def averages(self, scores: Tensor, values: Tensor) -> Tensor:
        """Average values (K, n, O) over each bag with the softmax of scores (K, n): (K, B, O)."""
        return torch.bmm(self.softmax(scores), values)


class Step(NamedTuple):
    """Everything that the update on one mini-batch of b patients and n instances of each of T trials needs.

    rows, bag: (T, n); kept: (K, n) or None; drawn: (K, n) or None; see `Instances` and `Inputs.instances`
    metadata: (K, b, M); labels, weights: (K, b); rates: (T,) learning rates
    scales: factors (K, b, W) of each dropout, None where nothing is dropped
    active: for each trial, which of its members train on at least one of the patients
    """

    rows: Tensor
    bag: Tensor
    kept: Tensor | None
    drawn: Tensor | None
    metadata: Tensor
    labels: Tensor
    weights: Tensor
    rates: Tensor
    scales: Sequence[Tensor | None]
    active: Sequence[Sequence[bool]]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the step."""
        return [value for value in self._slots if value is not None]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Step":
        """Return the step with other tensors of the same shapes."""
        left = iter(tensors)
        slots = [None if value is None else next(left) for value in self._slots]
        count = len(slots) - len(self.scales)
        fields: dict[str, Any] = dict(zip(_FIELDS, slots[:count], strict=True))
        return self._replace(**fields, scales=slots[count:])

    @property
    def _slots(self) -> list[Tensor | None]:
        """The fields of `_FIELDS`, and the factors of each dropout."""
        return [*(getattr(self, name) for name in _FIELDS), *self.scales]

    @property
    def shape(self) -> Hashable:
        """What decides about the operations of the update."""
        shapes = tuple(tuple(value.shape) for value in self.tensors)
        missing = tuple(value is None for value in self._slots)
        return shapes, missing, tuple(map(tuple, self.active))


_FIELDS = ("rows", "bag", "kept", "drawn", "metadata", "labels", "weights", "rates")  # tensors of a step


def scaled_dropout(scales: Sequence[Tensor | None]) -> Dropout:
    """Return a dropout of x (K, ...) that multiplies with these factors, one for each call.

    The rate that the model passes is that of one trial only and has no effect.
    """
    left = iter(scales)

    def dropout(x: Tensor, rate: float) -> Tensor:
        factors = next(left)
        return x if factors is None else x * factors

    return dropout
