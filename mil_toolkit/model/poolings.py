"""The table of poolings, which combine the instances of a bag, for K members at once.

A pooling is called with `Instances` and returns the pooled bags, (K, B, width). Its `attention` returns the
weight of each instance, (K, n), which sums to one within each bag. Poolings that predict instances as well
are `Supervised`; `pool` calls both kinds.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.columnwise import LogSumExp, Max, MeanStd, NoisyAnd
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.supervised import Clam, Dsmil, Supervised, Terms
from mil_toolkit.model.transformer import Transformer
from mil_toolkit.model.weighted import Attention, GatedAttention, Mean, TopK


class Pooling(Protocol):
    """A pooling of bags.

    width: columns of the pooled bags
    """

    width: int

    def __call__(self, bags: Instances) -> Tensor:
        """Pool each bag: (K, B, width)."""

    def attention(self, bags: Instances) -> Tensor:
        """Return each instance's share in its pooled bag: (K, n), summing to one within each bag."""


POOLINGS: dict[str, Callable[[int, HeadConfig, Sequence[torch.Generator]], Pooling]] = {
    "attention": Attention,
    "gated-attention": GatedAttention,
    "mean": Mean,
    "max": Max,
    "noisy-and": NoisyAnd,
    "top-k": TopK,
    "transformer": Transformer,
    "mean-std": MeanStd,
    "log-sum-exp": LogSumExp,
    "dsmil": Dsmil,
    "clam": Clam,
}


def pool(pooling: Pooling, bags: Instances) -> tuple[Tensor, Terms]:
    """Return the pooled bags (K, B, width), and what the pooling predicts from single instances."""
    if isinstance(pooling, Supervised):
        return pooling.with_terms(bags)
    return pooling(bags), Terms()
