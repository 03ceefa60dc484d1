"""Loss functions of K members, patient weights and instance dropout."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.head import Logits
from mil_toolkit.model.layers import draw
from mil_toolkit.training.inputs import Inputs

_DRAWN = 2**20  # numbers that are drawn at a time


def patient_weights(inputs: Inputs, config: HeadConfig) -> Tensor:
    """Return the weight of each patient in each fold's loss, (F, B).

    The weight is 0 for patients that the fold holds out. For its training patients it is 1, or, with
    `config.class_weights`, n / (2 n_class), so that both classes have the same total and the mean weight is
    1.
    """
    trains_on = inputs.trains_on.float().to(inputs.device)
    if not config.class_weights:
        return trains_on
    labels = torch.from_numpy(inputs.patients.labels).to(inputs.device)
    weights = torch.zeros_like(trains_on)
    for label in (0, 1):
        in_class = trains_on * (labels == label)
        weights += (
            in_class * trains_on.sum(1, keepdim=True) / (2 * in_class.sum(1, keepdim=True)).clamp(min=1)
        )
    return weights


def member_losses(logits: Logits, labels: Tensor, weights: Tensor, config: HeadConfig) -> Tensor:
    """Return each member's mean weighted cross-entropy over its own training patients, (K,).

    Shapes: logits (K, b), labels (b,), weights (K, b), where b is the number of patients in the mini-batch.
    With late fusion, the cross-entropy of each branch is added, multiplied by `config.auxiliary`. A member
    without training patients in the mini-batch has a loss of 0.

    >>> logits, labels = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([1.0, 1.0, 0.0])
    >>> member_losses(Logits(logits), labels, torch.tensor([[1.0, 1.0, 0.0]]), HeadConfig())
    tensor([0.4100])
    """
    sign = 1 - 2 * labels
    losses = functional.softplus(logits.total * sign)  # (K, b)
    for branch in (logits.image, logits.metadata):
        if branch is not None:
            losses = losses + config.auxiliary * functional.softplus(branch * sign)
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
