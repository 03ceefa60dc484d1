"""Poolings by a weighted sum of the instances."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear, scores


class _Weighted(nn.Module):
    """A pooling by weighted sum; subclasses compute the scores before the softmax, (K, n)."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs

    def scores(self, bags: Instances) -> Tensor:
        raise NotImplementedError

    def forward(self, bags: Instances) -> Tensor:
        return bags.pooled(self.scores(bags))

    def attention(self, bags: Instances) -> Tensor:
        return bags.shares(self.scores(bags))


class Mean(_Weighted):
    """Mean pooling: attention with equal scores."""

    def scores(self, bags: Instances) -> Tensor:
        return bags.x.new_zeros(bags.member_count, bags.x.shape[1], dtype=torch.float32)


class Attention(_Weighted):
    """Attention pooling: scores w' tanh(V x), softmax over the bag; Ilse et al. 2018, eq. 7 and 8."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__(inputs, config, generators)
        self.hidden = Linear(inputs, config.hidden, generators)
        self.score = Linear(config.hidden, 1, generators, zero=config.zero_start, bias=False)

    def scores(self, bags: Instances) -> Tensor:
        return scores(bags.activated(self.hidden, torch.tanh), self.score.weight)


class GatedAttention(Attention):
    """Gated attention: scores w' (tanh(V x) * sigmoid(U x)); Ilse et al. 2018, eq. 9."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__(inputs, config, generators)
        self.gate = Linear(inputs, config.hidden, generators)

    def scores(self, bags: Instances) -> Tensor:
        hidden = bags.activated(self.hidden, torch.tanh)
        gate = bags.activated(self.gate, torch.sigmoid)
        return scores(hidden * gate, self.score.weight)


class TopK(_Weighted):
    """Attention with a linear score over only the `top_k` highest-scoring instances of each bag."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__(inputs, config, generators)
        self.k = config.top_k
        self.score = Linear(inputs, 1, generators, bias=False)

    def scores(self, bags: Instances) -> Tensor:
        scores = bags.linear(self.score).squeeze(-1).float()
        candidates = scores if bags.kept is None else scores.masked_fill(~bags.kept, -math.inf)
        lowest = bags.lowest(candidates, self.k)  # (K, B)
        return scores.masked_fill(scores < lowest[:, bags.bag], -math.inf)
