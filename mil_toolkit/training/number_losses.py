"""Loss of predicted numbers on standardised targets, for K members in lockstep."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

DELTA = 1.0  # of the Huber loss, in standard deviations of the target


class TargetScale(NamedTuple):
    """Mean and standard deviation of the targets of each fold's training patients, (F,) each."""

    mean: Tensor
    deviation: Tensor


def target_scale(targets: Tensor, trains_on: Tensor) -> TargetScale:
    """Return mean and standard deviation in each fold: targets (B,), trains_on (F, B) bool.

    The standard deviation of equal targets is taken as 1.
    """
    inside = trains_on.to(targets.dtype)
    counts = inside.sum(1)
    mean = inside @ targets / counts
    deviation = ((inside * (targets - mean[:, None]) ** 2).sum(1) / counts).sqrt()
    return TargetScale(mean, deviation.where(deviation > 0, 1.0))


def standardised(targets: Tensor, scale: TargetScale) -> Tensor:
    """Return the standardised targets of each fold, (F, B): targets (B,)."""
    return (targets - scale.mean[:, None]) / scale.deviation[:, None]


def original_unit(outputs: Tensor, scale: TargetScale) -> Tensor:
    """Return outputs (F, B) on the standardised scale in the unit of the targets."""
    return outputs * scale.deviation[:, None] + scale.mean[:, None]


def huber_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the Huber loss of each patient (Huber 1964): outputs and targets (K, b) -> (K, b).

    Both are on the standardised scale; the loss is quadratic up to an error of DELTA and linear beyond it.
    """
    return functional.huber_loss(outputs, targets, reduction="none", delta=DELTA)
