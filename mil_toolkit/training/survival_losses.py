"""Loss of hazards in discrete time, for K members in lockstep."""

import torch
from torch import Tensor
from torch.nn import functional


def hazard_losses(logits: Tensor, survived: Tensor, event: Tensor) -> Tensor:
    """Return the negative log-likelihood of each patient (logistic hazard), (K, b).

    Shapes: logits (K, b, T) of the hazards; survived (K, b), the number of intervals that the patient
    outlived; event (K, b) bool, whether the event happened in the next one, as
    `evaluation.discrete_time.to_intervals` returns them for the cut points of each member.

    This is -sum over outlived intervals of log(1 - hazard) - event * log(hazard of the next one) (Kvamme and
    Borgan 2021; Gensheimer and Narasimhan 2019). A patient who was censored in the first
    interval has a loss of 0.
    """
    intervals = torch.arange(logits.shape[-1], device=logits.device)
    outlived = intervals < survived[..., None]
    happened = (intervals == survived[..., None]) & event[..., None]
    losses = functional.softplus(logits) * outlived + functional.softplus(-logits) * happened
    return losses.sum(-1)


def hazard_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `hazard_losses` of targets (b, 2) or (K, b, 2) of the outlived intervals and the event."""
    return hazard_losses(logits, targets[..., 0], targets[..., 1] == 1)
