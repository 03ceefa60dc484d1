"""The table of poolings, which combine the instances of a bag, for K members at once.

A pooling is called with `Instances` and returns the pooled bags, (K, B, width). Its `attention` returns the
weight of each instance, (K, n), which sums to one within each bag. Poolings that predict instances as well
are `Supervised`; `pool` calls both kinds. Those of CLASSWISE_POOLINGS can have several attention heads, one
for each class; the pooled bags are then (K, B, heads, width), and the attention is (K, n, heads).
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
        """Pool each bag: (K, B, width), or (K, B, heads, width) with several heads."""

    def attention(self, bags: Instances) -> Tensor:
        """Return each instance's share in its pooled bag: (K, n) or (K, n, heads).

        The shares sum to one within each bag.
        """


POOLINGS: dict[str, Callable[..., Pooling]] = {
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


def build_pooling(
    width: int, config: HeadConfig, generators: Sequence[torch.Generator], heads: int = 1
) -> Pooling:
    """Return the pooling that a configuration names.

    width: columns of the instances; heads: above 1 only for CLASSWISE_POOLINGS
    """
    options = {"heads": heads} if heads > 1 else {}
    return POOLINGS[config.pooling](width, config, generators, **options)


def pool(pooling: Pooling, bags: Instances) -> tuple[Tensor, Terms]:
    """Return the pooled bags, and what the pooling predicts from single instances."""
    if isinstance(pooling, Supervised):
        return pooling.with_terms(bags)
    return pooling(bags), Terms()
