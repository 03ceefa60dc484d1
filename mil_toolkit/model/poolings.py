"""Poolings over packed bags, for K members at once.

A pooling is called with `Instances` and gives (K, B, width); `attention` says what each instance weighed,
(K, n), summing to one within each bag.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.kernels import Activation, bmm
from mil_toolkit.model.layers import Linear, activated, linear, scores


@dataclass(frozen=True)
class Instances:
    """The embeddings of some bags, as K members see them.

    x: (G, n, D), each of the G shared by K / G members side by side
    bag: (n,) int64, the bag of each instance; those of a bag lie side by side
    sizes: instances of each of B bags
    members: K
    shift, scale: (K, 1, D) where members standardise shared embeddings as (x - shift) * scale, else None;
        they are folded into the first product, so that x is never copied
    kept: (K, n) bool, instances that dropout left in; None keeps all
    """

    x: Tensor
    bag: Tensor
    sizes: Sequence[int]
    members: int
    shift: Tensor | None = None
    scale: Tensor | None = None
    kept: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, sizes: Tensor, members: int) -> "Instances":
        """Bags of these sizes (B,), packed in x (G, n, D)."""
        bag = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        return cls(x, bag.to(x.device), sizes.tolist(), members)

    @cached_property
    def outside(self) -> Tensor:
        """(B, n) zero where an instance lies in the bag, minus infinity where not: what a softmax adds to scores."""
        outside = torch.full((len(self.sizes), self.bag.shape[0]), -math.inf, device=self.bag.device)
        return outside.scatter_(0, self.bag[None], 0.0)

    def linear(self, layer: Linear) -> Tensor:
        """A linear layer on the standardised embeddings: (K, n, O)."""
        return linear(self.x, *self._folded(layer))

    def activated(self, layer: Linear, kind: Activation) -> Tensor:
        """torch.tanh or torch.sigmoid of a linear layer on the standardised embeddings: (G, n, K / G * O)."""
        return activated(self.x, *self._folded(layer), kind)

    def _folded(self, layer: Linear) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layer, the standardisation folded in."""
        if self.shift is None or self.scale is None:
            return layer.weight, layer.bias
        weight = layer.weight * self.scale.transpose(1, 2)  # (K, D, O)
        return weight, layer.bias - self.shift @ weight

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax of scores (K, n) over each bag's kept instances: (K, B, n), zero outside the bag."""
        if self.kept is not None:
            scores = scores.masked_fill(~self.kept, -math.inf)
        return (scores[:, None] + self.outside).softmax(-1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum of the standardised embeddings under weights (K, B, n) that sum to one: (K, B, D)."""
        groups, n, width = self.x.shape
        pooled = bmm(weights.to(self.x.dtype).reshape(groups, -1, n), self.x)  # (G, K / G * B, D)
        return self._standardise(pooled.view(*weights.shape[:2], width).float())

    def _standardise(self, x: Tensor) -> Tensor:
        return x if self.shift is None or self.scale is None else (x - self.shift) * self.scale

    def standardised(self) -> Tensor:
        """The standardised embeddings themselves: (K, n, D) float32. Only max pooling needs them whole."""
        return self._standardise(self.x.float().repeat_interleave(self.members // len(self.x), 0))

    def of_bags(self, weights: Tensor) -> Tensor:
        """The weight (K, n) of each instance in its own bag, from (K, B, n)."""
        return weights.gather(1, self.bag.expand(len(weights), 1, -1)).squeeze(1)

    def present(self) -> Tensor:
        """(K, n) bool, the instances that count."""
        return (
            torch.ones_like(self.bag, dtype=torch.bool).expand(self.members, -1)
            if self.kept is None
            else self.kept
        )

    def bag_sums(self, values: Tensor) -> Tensor:
        """Sums over each bag's instances: (K, n, O) -> (K, B, O)."""
        total = values.new_zeros(len(values), len(self.sizes), values.shape[-1])
        return total.index_add(1, self.bag, values)

    def bag_means(self, values: Tensor) -> Tensor:
        """Means over each bag's kept instances: (K, n, O) -> (K, B, O)."""
        return torch.bmm(self.softmax(torch.zeros_like(values[..., 0])), values)


class Pooling(Protocol):
    """What a pooling offers: its output's width, the pooled bags, and each instance's share in them."""

    width: int

    def __call__(self, bags: Instances) -> Tensor: ...

    def attention(self, bags: Instances) -> Tensor: ...


class _Weighted(nn.Module):
    """Poolings that are a weighted sum: sub-classes give the scores before the softmax, (K, n)."""

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs

    def scores(self, bags: Instances) -> Tensor:
        raise NotImplementedError

    def forward(self, bags: Instances) -> Tensor:
        return bags.weighted_sum(bags.softmax(self.scores(bags)))

    def attention(self, bags: Instances) -> Tensor:
        return bags.of_bags(bags.softmax(self.scores(bags)))


class Mean(_Weighted):
    """The mean of a bag's embeddings: attention with equal scores."""

    def scores(self, bags: Instances) -> Tensor:
        return bags.x.new_zeros(bags.members, bags.x.shape[1], dtype=torch.float32)


class Attention(_Weighted):
    """Attention pooling: w' tanh(V x), softmax over the bag; Ilse et al. 2018, eq. 7 and 8."""

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__(inputs, config, members)
        self.hidden = Linear(inputs, config.hidden, members)
        self.score = Linear(config.hidden, 1, members, zero=config.zero_start, bias=False)

    def scores(self, bags: Instances) -> Tensor:
        return scores(bags.activated(self.hidden, torch.tanh), self.score.weight)


class GatedAttention(Attention):
    """Gated attention: w' (tanh(V x) * sigmoid(U x)); Ilse et al. 2018, eq. 9."""

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__(inputs, config, members)
        self.gate = Linear(inputs, config.hidden, members)

    def scores(self, bags: Instances) -> Tensor:
        hidden = bags.activated(self.hidden, torch.tanh)
        gate = bags.activated(self.gate, torch.sigmoid)
        return scores(hidden * gate, self.score.weight)


class TopK(_Weighted):
    """Attention with a linear score, over the `top_k` highest-scored instances of each bag alone."""

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__(inputs, config, members)
        self.k = config.top_k
        self.score = Linear(inputs, 1, members, bias=False)

    def scores(self, bags: Instances) -> Tensor:
        scores = bags.linear(self.score).squeeze(-1).float()
        candidates = scores if bags.kept is None else scores.masked_fill(~bags.kept, -math.inf)
        by_bag = candidates[:, None] + bags.outside  # (K, B, n)
        lowest = by_bag.topk(min(self.k, by_bag.shape[-1])).values[..., -1]  # (K, B), -inf in small bags
        return scores.masked_fill(scores < lowest[:, bags.bag], -math.inf)


class Max(nn.Module):
    """The highest value of each column over the bag."""

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs

    def forward(self, bags: Instances) -> Tensor:
        return self._highest(bags, self._candidates(bags))

    def attention(self, bags: Instances) -> Tensor:
        """The share of columns in which an instance holds the bag's maximum."""
        x = self._candidates(bags)
        won = (x == self._highest(bags, x)[:, bags.bag]).float()
        return (won / bags.bag_sums(won)[:, bags.bag]).mean(-1)

    def _candidates(self, bags: Instances) -> Tensor:
        x = bags.standardised()
        return x if bags.kept is None else x.masked_fill(~bags.kept[..., None], -math.inf)

    def _highest(self, bags: Instances, x: Tensor) -> Tensor:
        start = x.new_full((bags.members, len(bags.sizes), self.width), -math.inf)
        return start.scatter_reduce(1, bags.bag[None, :, None].expand_as(x), x, "amax")


class NoisyAnd(nn.Module):
    """Noisy-and over `hidden` instance detectors; Kraus et al. 2016, eq. 4, with slope a = 10.

    Each detector is a sigmoid of a linear layer; its mean p over the bag becomes
    (s(a (p - b)) - s(-a b)) / (s(a (1 - b)) - s(-a b)), with a learned threshold b for each detector.
    """

    SLOPE = 10.0

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__()
        self.width = config.hidden
        self.detect = Linear(inputs, config.hidden, members)
        self.threshold = nn.Parameter(
            torch.full((len(members), 1, config.hidden), 0.5, device=members[0].device)
        )

    def forward(self, bags: Instances) -> Tensor:
        mean = bags.bag_means(self._detected(bags))  # (K, B, H)
        low = torch.sigmoid(-self.SLOPE * self.threshold)
        high = torch.sigmoid(self.SLOPE * (1 - self.threshold))
        return (torch.sigmoid(self.SLOPE * (mean - self.threshold)) - low) / (high - low)

    def attention(self, bags: Instances) -> Tensor:
        """An instance's share of what the bag's detectors saw."""
        seen = self._detected(bags).sum(-1, keepdim=True) * bags.present()[..., None]
        return (seen / bags.bag_sums(seen)[:, bags.bag]).squeeze(-1)

    def _detected(self, bags: Instances) -> Tensor:
        return torch.sigmoid(bags.linear(self.detect).float())


class Transformer(nn.Module):
    """One pre-norm block in which the instances of a bag attend to each other, then attention with a linear score.

    The block is that of Vaswani et al. 2017 without positions, since a bag has no order; the pair of it and
    the pooling by attention is a small Set Transformer (Lee et al. 2019).
    """

    HEADS = 4

    def __init__(self, inputs: int, config: HeadConfig, members: Sequence[torch.Generator]):
        super().__init__()
        self.width = hidden = config.hidden
        self.embed = Linear(inputs, hidden, members)
        self.query_key_value = Linear(hidden, 3 * hidden, members)
        self.mix = Linear(hidden, hidden, members)
        self.widen = Linear(hidden, 2 * hidden, members)
        self.narrow = Linear(2 * hidden, hidden, members)
        self.score = Linear(hidden, 1, members, zero=config.zero_start, bias=False)

    def forward(self, bags: Instances) -> Tensor:
        x = self._block(bags)
        return torch.bmm(self._weights(x, bags), x)

    def attention(self, bags: Instances) -> Tensor:
        return bags.of_bags(self._weights(self._block(bags), bags))

    def _weights(self, x: Tensor, bags: Instances) -> Tensor:
        return bags.softmax(self.score(x).squeeze(-1))

    def _block(self, bags: Instances) -> Tensor:
        precision = bags.x.dtype  # of the products; what is added up stays in float32
        x = bags.linear(self.embed).float()  # (K, n, H)
        x = x + self.mix(self._attend(_normalise(x).to(precision), bags))
        return x + self.narrow(torch.relu(self.widen(_normalise(x).to(precision))))

    def _attend(self, x: Tensor, bags: Instances) -> Tensor:
        """Multi-head self-attention inside each bag, (K, n, H) -> (K, n, H)."""
        # In float32: on a CPU torch's gradient of it takes twice as long in bfloat16. Bag by bag: padded to the
        # longest, most of the work would be on padding.
        joint = self.query_key_value(x).float().unflatten(-1, (3, self.HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = bags.present()[:, None, None]  # (K, 1, 1, n)
        mixed = [
            functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            for (query, key, value), mask in zip(
                joint.split(list(bags.sizes), 3), seen.split(list(bags.sizes), 3), strict=True
            )
        ]
        return torch.cat(mixed, 2).transpose(1, 2).flatten(2).to(x.dtype)


def _normalise(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


POOLINGS: dict[str, Callable[[int, HeadConfig, Sequence[torch.Generator]], Pooling]] = {
    "attention": Attention,
    "gated-attention": GatedAttention,
    "mean": Mean,
    "max": Max,
    "noisy-and": NoisyAnd,
    "top-k": TopK,
    "transformer": Transformer,
}
