"""Losses of several classes and of ordered classes, for K members in lockstep."""

import torch
from torch import Tensor
from torch.nn import functional


def softmax_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each patient: logits (K, b, C), labels of 0 to C - 1 -> (K, b).

    labels: (b,), or (K, b) if each member has patients of its own

    For two classes with the logits 0 and x it is the cross-entropy of the logit x of a binary outcome.
    """
    of_label = labels.long().expand(logits.shape[:-1])[..., None]
    return -functional.log_softmax(logits, dim=-1).gather(-1, of_label)[..., 0]


def cumulative_logits(outputs: Tensor) -> Tensor:
    """Return the logits of P(class > c) for c = 0 to C - 2 from unrestricted outputs: (..., C - 1) each.

    The first is the first output, and each other one is lower by the softplus of its output, so that they
    fall as the probabilities of a cumulative link model must (McCullagh 1980, section 2).
    """
    steps = functional.softplus(outputs[..., 1:]).cumsum(-1)
    return torch.cat([outputs[..., :1], outputs[..., :1] - steps], dim=-1)


def ordered_log_probabilities(outputs: Tensor) -> Tensor:
    """Return the log-probabilities of C ordered classes, (..., C), from outputs (..., C - 1).

    With the cumulative logits l, P(c) = sigmoid(l[c - 1]) - sigmoid(l[c]). Because l[c - 1] - l[c] is the
    softplus of output c, this is the product of sigmoid(l[c - 1]), sigmoid(-l[c]) and sigmoid(output c),
    whose logarithm loses no digits.
    """
    above = cumulative_logits(outputs)
    least, most = functional.logsigmoid(-above), functional.logsigmoid(above)  # P(<= c) and P(> c)
    between = most[..., :-1] + least[..., 1:] + functional.logsigmoid(outputs[..., 1:])
    return torch.cat([least[..., :1], between, most[..., -1:]], dim=-1)


def ordered_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood of each patient's class in a cumulative link model, (K, b).

    Shapes: outputs (K, b, C - 1), labels (b,) of 0 to C - 1. For two classes it is the cross-entropy of the
    logit of a binary outcome.
    """
    of_label = labels.long().expand(outputs.shape[:-1])[..., None]
    return -ordered_log_probabilities(outputs).gather(-1, of_label)[..., 0]
