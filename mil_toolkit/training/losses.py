"""Losses of K members, weights of patients and instance dropout."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.head import Logits
from mil_toolkit.model.layers import draw
from mil_toolkit.training.inputs import Inputs


def patient_weights(inputs: Inputs, config: HeadConfig) -> Tensor:
    """(F, B) the weight of each patient in each fold's loss: 0 held out, else 1 or its class's weight.

    Class weights are n / (2 n_class) among the fold's training patients, so that their mean is one.
    """
    trains_on = inputs.trains_on.float().to(inputs.device)
    if not config.class_weights:
        return trains_on
    labels = torch.from_numpy(inputs.patients.labels).to(inputs.device)
    weights = torch.zeros_like(trains_on)
    for label in (0, 1):
        of_class = trains_on * (labels == label)
        weights += (
            of_class * trains_on.sum(1, keepdim=True) / (2 * of_class.sum(1, keepdim=True)).clamp(min=1)
        )
    return weights


def member_losses(logits: Logits, labels: Tensor, weights: Tensor, config: HeadConfig) -> Tensor:
    """Each member's mean weighted cross-entropy over its own training patients: (K,).

    Shapes: logits (K, b), labels (b,), weights (K, b)
    Under late fusion each branch's own cross-entropy is added, times `config.auxiliary`.
    """
    sign = 1 - 2 * labels
    losses = functional.softplus(logits.total * sign)  # (K, b)
    for branch in (logits.image, logits.metadata):
        if branch is not None:
            losses = losses + config.auxiliary * functional.softplus(branch * sign)
    return (losses * weights).sum(1) / (weights > 0).sum(1).clamp(min=1)


def drop_instances(sizes: Sequence[int], rate: float, random: Sequence[torch.Generator]) -> Tensor:
    """Which instances of bags of these sizes stay, (K, n) bool, packed as they are.

    Each is left out with probability `rate`, but one of each bag, drawn at random, is always in.
    """
    kept = draw(random, sum(sizes)) >= rate
    of_bags = torch.tensor(sizes, dtype=torch.int64)
    of_bags, ends = (each.to(kept.device, non_blocking=True) for each in (of_bags, of_bags.cumsum(0)))
    spared = (draw(random, len(sizes)) * of_bags).long() + ends - of_bags  # (K, B)
    return kept.scatter(1, spared, True)
