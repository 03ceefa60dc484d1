"""Poolings by a weighted sum of the instances."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear, scores


def by_head(values: Tensor, heads: int) -> Tensor:
    """Move the heads behind the bags or instances: (K * heads, n, ...) -> (K, n, heads, ...).

    A single head has no axis: the values stay as they are.
    """
    return values if heads == 1 else values.unflatten(0, (-1, heads)).transpose(1, 2)


class _Weighted(nn.Module):
    """A pooling by weighted sum; subclasses compute the scores before the softmax, (K * heads, n)."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width, self.heads = inputs, 1

    def scores(self, bags: Instances) -> Tensor:
        raise NotImplementedError

    def forward(self, bags: Instances) -> Tensor:
        return by_head(bags.repeated(self.heads).pooled(self.scores(bags)), self.heads)

    def attention(self, bags: Instances) -> Tensor:
        return by_head(bags.repeated(self.heads).shares(self.scores(bags)), self.heads)


class Mean(_Weighted):
    """Mean pooling: attention with equal scores."""

    def scores(self, bags: Instances) -> Tensor:
        return bags.x.new_zeros(bags.member_count, bags.x.shape[1], dtype=torch.float32)


class Attention(_Weighted):
    """Attention pooling: scores w' tanh(V x), softmax over the bag; Ilse et al. 2018, eq. 7 and 8.

    heads: number of vectors w, each of which pools the bag by its own scores; of several, V is shared, as in
        CLAM-MB (Lu et al. 2021) and SCEMILA (Hehr et al. 2023)
    """

    def __init__(
        self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator], heads: int = 1
    ):
        super().__init__(inputs, config, generators)
        self.heads = heads
        self.hidden = Linear(inputs, config.hidden, generators)
        self.score = Linear(config.hidden, heads, generators, zero=config.zero_start, bias=False)

    def scores(self, bags: Instances) -> Tensor:
        return scores(bags.activated(self.hidden, torch.tanh), self.score.weight)


class GatedAttention(Attention):
    """Gated attention: scores w' (tanh(V x) * sigmoid(U x)); Ilse et al. 2018, eq. 9."""

    def __init__(
        self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator], heads: int = 1
    ):
        super().__init__(inputs, config, generators, heads)
        self.gate = Linear(inputs, config.hidden, generators)

    def scores(self, bags: Instances) -> Tensor:
        hidden = bags.activated(self.hidden, torch.tanh)
        gate = bags.activated(self.gate, torch.sigmoid)
        return scores(hidden * gate, self.score.weight)


class TopK(_Weighted):
    """Attention with a linear score over only the `top_k` highest-scoring instances of each bag.

    heads: number of scores, each of which keeps its own instances
    """

    def __init__(
        self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator], heads: int = 1
    ):
        super().__init__(inputs, config, generators)
        self.k, self.heads = config.top_k, heads
        self.score = Linear(inputs, heads, generators, bias=False)

    def scores(self, bags: Instances) -> Tensor:
        scores = bags.linear(self.score).transpose(1, 2).flatten(0, 1).float()
        bags = bags.repeated(self.heads)
        candidates = scores if bags.kept is None else scores.masked_fill(~bags.kept, -math.inf)
        lowest = bags.lowest(candidates, self.k)  # (K * heads, B)
        return scores.masked_fill(scores < lowest[:, bags.bag], -math.inf)
