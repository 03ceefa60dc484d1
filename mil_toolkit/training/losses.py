"""Loss functions of K members, patient weights and instance dropout."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.head import Logits
from mil_toolkit.model.layers import draw
from mil_toolkit.training.class_losses import ordered_losses, softmax_losses
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.number_losses import huber_losses
from mil_toolkit.training.survival_losses import hazard_loss

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A function of outputs (K, b) or (K, b, C) and targets (b, ...) that returns the losses (K, b)."""
_DRAWN = 2**20  # numbers that are drawn at a time


def patient_weights(inputs: Inputs, config: HeadConfig) -> Tensor:
    """Return the weight of each patient in each fold's loss, (F, B).

    The weight is 0 for patients that the fold holds out. For its training patients it is 1, or, with
    `config.class_weights` and C classes, n / (C n_class), so that all classes have the same total and the
    mean weight is 1.
    """
    trains_on = inputs.trains_on.float().to(inputs.device)
    classes = len(inputs.outcome.class_names)
    if not (config.class_weights and classes):
        return trains_on
    labels = torch.from_numpy(inputs.patients.labels).to(inputs.device)
    weights = torch.zeros_like(trains_on)
    for label in range(classes):
        in_class = trains_on * (labels == label)
        totals = (classes * in_class.sum(1, keepdim=True)).clamp(min=1)
        weights += in_class * trains_on.sum(1, keepdim=True) / totals
    return weights


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of two classes: logits (K, b), labels (b,) or (K, b) of 0 and 1 -> (K, b)."""
    return functional.softplus(logits * (1 - 2 * labels))


LOSSES: dict[str, Loss] = {
    "binary": binary_cross_entropy,
    "ordered": ordered_losses,
    "classes": softmax_losses,
    "number": huber_losses,
    "survival": hazard_loss,
}
"""The loss of each kind of outcome."""


def member_losses(
    logits: Logits,
    targets: Tensor,
    weights: Tensor,
    config: HeadConfig,
    loss: Loss = binary_cross_entropy,
    auxiliary: Tensor | None = None,
) -> Tensor:
    """Return each member's mean weighted loss over its own training patients, (K,).

    loss: of the outcome
    auxiliary: that of each member, (K, 1); None for `config.auxiliary`
    Shapes: logits (K, b) or (K, b, C), targets (b, ...), or (K, b) if each member has patients of its own,
    weights (K, b), where b is the number of patients in the mini-batch. With late fusion, the loss of each
    branch is added, multiplied by `auxiliary`; where the pooling predicts instances, the loss of these
    predictions, multiplied by `config.instance_loss`. A member without training patients in the mini-batch
    has a loss of 0.

    >>> logits, labels = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([1.0, 1.0, 0.0])
    >>> member_losses(Logits(logits), labels, torch.tensor([[1.0, 1.0, 0.0]]), HeadConfig())
    tensor([0.4100])
    """
    share = config.auxiliary if auxiliary is None else auxiliary
    losses = loss(logits.total, targets)  # (K, b)
    for branch in (logits.image, logits.metadata):
        if branch is not None:
            losses = losses + share * loss(branch, targets)
    if logits.losses is not None:
        classes = targets.long().expand(losses.shape)[..., None]  # (K, b, 1)
        losses = losses + config.instance_loss * logits.losses.gather(-1, classes).squeeze(-1)
    return (losses * weights).sum(1) / (weights > 0).sum(1).clamp(min=1)


def drop_instances(sizes: Sequence[int], rate: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw the instances that dropout keeps, one independent draw for each of K members: (K, n) bool.

    sizes: number of instances in each bag, in packed order; n is their sum
    rate: probability of dropping an instance
    generators: random number generators of the K members

    One instance of each bag, chosen uniformly at random, is always kept, so that no bag becomes empty.
    """
    kept = torch.empty(len(generators), sum(sizes), dtype=torch.bool, device=generators[0].device)
    for row, generator in zip(kept, generators, strict=True):
        for part in row.split(_DRAWN):  # gives the numbers of a single draw, in less memory
            torch.ge(draw([generator], len(part))[0], rate, out=part)
    sizes_on_host = torch.tensor(sizes, dtype=torch.int64)
    bag_sizes, ends = (
        tensor.to(kept.device, non_blocking=True) for tensor in (sizes_on_host, sizes_on_host.cumsum(0))
    )
    always_kept = (draw(generators, len(sizes)) * bag_sizes).long() + ends - bag_sizes  # (K, B)
    return kept.scatter_(1, always_kept, True)
