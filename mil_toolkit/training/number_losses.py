"""Loss of predicted numbers on standardised targets, for K members in lockstep."""

from torch import Tensor
from torch.nn import functional

DELTA = 1.0  # of the Huber loss, in standard deviations of the target


def huber_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the Huber loss of each patient (Huber 1964): outputs (K, b), targets (b,) or (K, b) -> (K, b).

    Both are on the standardised scale; the loss is quadratic up to an error of DELTA and linear beyond it.
    """
    return functional.huber_loss(outputs, targets.expand(outputs.shape), reduction="none", delta=DELTA)
