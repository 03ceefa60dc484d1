"""Losses of patients, summed over the branches of a late fusion, and their mean for each member."""

from collections.abc import Callable

from torch import Tensor

from mil_toolkit.model.head import Logits


def over_branches(logits: Logits, auxiliary: float, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the loss of each patient, (K, b).

    loss: computes it from outputs (K, b) or (K, b, C); with late fusion, the loss of each branch is added,
    multiplied by `auxiliary`
    """
    losses = loss(logits.total)
    for branch in (logits.image, logits.metadata):
        if branch is not None:
            losses = losses + auxiliary * loss(branch)
    return losses


def member_means(losses: Tensor, weights: Tensor) -> Tensor:
    """Return each member's mean weighted loss over its own training patients, (K,).

    Shapes: losses (K, b), weights (K, b), 0 for patients that the member does not train on. A member without
    training patients in the mini-batch has a loss of 0.
    """
    return (losses * weights).sum(1) / (weights > 0).sum(1).clamp(min=1)
