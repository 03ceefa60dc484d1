"""Poolings over packed bags, for K members at once.

A pooling is called with `Instances` and returns the pooled bags, (K, B, width). Its `attention` returns the
weight of each instance, (K, n), which sums to one within each bag.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.kernels import Activation, bmm
from mil_toolkit.model.layers import Linear, activated, linear, scores

# Most elements of the matrix of bags and instances, in which weights outside of a bag are zero: of all bags
# at once, which is the fastest, and else of each of several blocks of bags.
WHOLE, BLOCK = 2**22, 2**18


@dataclass(frozen=True)
class Instances:
    """The embeddings of B bags as K members see them.

    x: (G, n, D), each of the G shared by K / G consecutive members
    bag: (n,) int64, the bag of each instance; the instances of a bag are consecutive
    sizes: number of instances of each of the B bags
    member_count: K
    shift, scale: (K, 1, D) if members standardise shared embeddings as (x - shift) * scale, else None;
        they are merged into the first product, so that x is never copied
    kept: (K, n) bool, the instances that dropout keeps; None keeps all
    """

    x: Tensor
    bag: Tensor
    sizes: Sequence[int]
    member_count: int
    shift: Tensor | None = None
    scale: Tensor | None = None
    kept: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, sizes: Tensor, member_count: int) -> "Instances":
        """Return bags of these sizes (B,), packed in x (G, n, D)."""
        bag = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        return cls(x, bag.to(x.device), sizes.tolist(), member_count)

    def columns(self, widths: Sequence[int]) -> "list[Instances]":
        """Return the same instances with only some of their columns: the first, the next, and so on."""
        xs = self.x.split(list(widths), -1)
        shifts, scales = (
            [None] * len(xs) if part is None else part.split(list(widths), -1)
            for part in (self.shift, self.scale)
        )
        return [
            replace(self, x=x, shift=shift, scale=scale)
            for x, shift, scale in zip(xs, shifts, scales, strict=True)
        ]

    @cached_property
    def blocks(self) -> Sequence["Instances"]:
        """The bags in blocks of consecutive ones, so that memory grows with the number of instances only."""
        if len(self.sizes) == 1 or len(self.sizes) * self.bag.shape[0] <= WHOLE:
            return [self]
        return [*self._blocks()]

    def _blocks(self) -> Iterator["Instances"]:
        start = 0
        for first, last in _divide(self.sizes):
            sizes = self.sizes[first:last]
            rows = slice(start, start := start + sum(sizes))
            kept = None if self.kept is None else self.kept[:, rows]
            bag = self.bag[rows] - first
            yield replace(self, x=self.x[:, rows], bag=bag, sizes=sizes, kept=kept)

    def _of_blocks(self, compute: Callable[["Instances", Tensor], Tensor], scores: Tensor) -> Tensor:
        """Join the results (K, ..) of every block and its scores (K, n) along the second axis."""
        if len(self.blocks) == 1:
            return compute(self, scores)
        rows = [block.bag.shape[0] for block in self.blocks]
        return torch.cat([*map(compute, self.blocks, scores.split(rows, 1))], 1)

    @cached_property
    def outside(self) -> Tensor:
        """(B, n), added to scores before a softmax: 0 if the instance is in the bag, else minus infinity."""
        outside = torch.full((len(self.sizes), self.bag.shape[0]), -math.inf, device=self.bag.device)
        return outside.scatter_(0, self.bag[None], 0.0)

    def linear(self, layer: Linear) -> Tensor:
        """Apply a linear layer to the standardised embeddings: (K, n, O)."""
        return linear(self.x, *self._merged(layer))

    def activated(self, layer: Linear, kind: Activation) -> Tensor:
        """Apply a linear layer, then torch.tanh or torch.sigmoid, to the standardised embeddings.

        The result is (G, n, K / G * O), with the columns of the members that share an input side by side.
        """
        return activated(self.x, *self._merged(layer), kind)

    def _merged(self, layer: Linear) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of the layer with the standardisation merged into them."""
        if self.shift is None or self.scale is None:
            return layer.weight, layer.bias
        weight = layer.weight * self.scale.transpose(1, 2)  # (K, D, O)
        return weight, layer.bias - self.shift @ weight

    def softmax(self, scores: Tensor) -> Tensor:
        """Apply a softmax to scores (K, n) over each bag's kept instances: (K, B, n), zero elsewhere."""
        if self.kept is not None:
            scores = scores.masked_fill(~self.kept, -math.inf)
        return (scores[:, None] + self.outside).softmax(-1)

    def pooled(self, scores: Tensor) -> Tensor:
        """Average each bag's standardised embeddings with the softmax of scores (K, n): (K, B, D)."""
        return self._of_blocks(lambda block, part: block._weighted_sum(block.softmax(part)), scores)

    def shares(self, scores: Tensor) -> Tensor:
        """Return the weight (K, n) of each instance in its own bag: the softmax of scores (K, n)."""
        return self._of_blocks(lambda block, part: block._own(block.softmax(part)), scores)

    def averages(self, scores: Tensor, values: Tensor) -> Tensor:
        """Average values (K, n, O) over each bag with the softmax of scores (K, n): (K, B, O)."""
        parts = iter(values.split([block.bag.shape[0] for block in self.blocks], 1))
        return self._of_blocks(lambda block, part: torch.bmm(block.softmax(part), next(parts)), scores)

    def lowest(self, scores: Tensor, count: int) -> Tensor:
        """Return the lowest of each bag's `count` highest scores, of scores (K, n): (K, B)."""
        return self._of_blocks(lambda block, part: block._lowest(part, count), scores)

    def _lowest(self, scores: Tensor, count: int) -> Tensor:
        by_bag = scores[:, None] + self.outside  # (K, B, n)
        return by_bag.topk(min(count, by_bag.shape[-1])).values[..., -1]  # -inf in small bags

    def _weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum the standardised embeddings with weights (K, B, n) that sum to one: (K, B, D)."""
        groups, n, width = self.x.shape
        pooled = bmm(weights.to(self.x.dtype).reshape(groups, -1, n), self.x)  # (G, K / G * B, D)
        return self._standardise(pooled.view(*weights.shape[:2], width).float())

    def _standardise(self, x: Tensor) -> Tensor:
        return x if self.shift is None or self.scale is None else (x - self.shift) * self.scale

    def standardised(self) -> Tensor:
        """Return the standardised embeddings themselves: (K, n, D) float32. Only max pooling needs them."""
        return self._standardise(self.x.float().repeat_interleave(self.member_count // len(self.x), 0))

    def _own(self, weights: Tensor) -> Tensor:
        """Return the weight (K, n) of each instance in its own bag, from weights (K, B, n)."""
        return weights.gather(1, self.bag.expand(len(weights), 1, -1)).squeeze(1)

    def present(self) -> Tensor:
        """Return which instances are kept: (K, n) bool."""
        return (
            torch.ones_like(self.bag, dtype=torch.bool).expand(self.member_count, -1)
            if self.kept is None
            else self.kept
        )

    def bag_sums(self, values: Tensor) -> Tensor:
        """Sum values over each bag's instances, in their order: (K, n, O) -> (K, B, O)."""
        if torch.compiler.is_compiling():  # ONNX has no sum of segments
            total = values.new_zeros(len(values), len(self.sizes), values.shape[-1])
            return total.index_add(1, self.bag, values)
        # On CUDA, index_add adds in a random order. On a CPU it is this sum, to the bit.
        sizes = torch.tensor(self.sizes, device=values.device).repeat(len(values), 1)  # (K, B)
        return torch.segment_reduce(values, "sum", lengths=sizes, axis=1, unsafe=True)

    def bag_means(self, values: Tensor) -> Tensor:
        """Average values over each bag's kept instances: (K, n, O) -> (K, B, O)."""
        return self.averages(torch.zeros_like(values[..., 0]), values)


def _divide(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Divide consecutive bags of these sizes into blocks, of at most BLOCK elements each or of one bag.

    >>> list(_divide([10, 10, 2**18]))
    [(0, 2), (2, 3)]
    """
    first = rows = 0
    for last, size in enumerate(sizes):
        if first < last and (last + 1 - first) * (rows + size) > BLOCK:
            yield first, last
            first, rows = last, 0
        rows += size
    yield first, len(sizes)


class Pooling(Protocol):
    """A pooling of bags.

    width: columns of the pooled bags
    """

    width: int

    def __call__(self, bags: Instances) -> Tensor:
        """Pool each bag: (K, B, width)."""

    def attention(self, bags: Instances) -> Tensor:
        """Return each instance's share in its pooled bag: (K, n), summing to one within each bag."""


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


class Max(nn.Module):
    """Max pooling: the highest value of each column over the bag."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs

    def forward(self, bags: Instances) -> Tensor:
        return self._highest(bags, self._candidates(bags))

    def attention(self, bags: Instances) -> Tensor:
        """Return the share of columns in which an instance holds the bag's maximum: (K, n)."""
        x = self._candidates(bags)
        won = (x == self._highest(bags, x)[:, bags.bag]).float()
        return (won / bags.bag_sums(won)[:, bags.bag]).mean(-1)

    def _candidates(self, bags: Instances) -> Tensor:
        x = bags.standardised()
        return x if bags.kept is None else x.masked_fill(~bags.kept[..., None], -math.inf)

    def _highest(self, bags: Instances, x: Tensor) -> Tensor:
        start = x.new_full((bags.member_count, len(bags.sizes), self.width), -math.inf)
        return start.scatter_reduce(1, bags.bag[None, :, None].expand_as(x), x, "amax")


class NoisyAnd(nn.Module):
    """Noisy-and over `hidden` instance detectors; Kraus et al. 2016, eq. 4, with slope a = 10.

    Each detector is a sigmoid of a linear layer. Its mean p over the bag is mapped to
    (s(a (p - b)) - s(-a b)) / (s(a (1 - b)) - s(-a b)), where s is the sigmoid and b the detector's learned
    threshold.
    """

    SLOPE = 10.0

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = config.hidden
        self.detect = Linear(inputs, config.hidden, generators)
        self.threshold = nn.Parameter(
            torch.full((len(generators), 1, config.hidden), 0.5, device=generators[0].device)
        )

    def forward(self, bags: Instances) -> Tensor:
        mean = bags.bag_means(self._detected(bags))  # (K, B, H)
        low = torch.sigmoid(-self.SLOPE * self.threshold)
        high = torch.sigmoid(self.SLOPE * (1 - self.threshold))
        return (torch.sigmoid(self.SLOPE * (mean - self.threshold)) - low) / (high - low)

    def attention(self, bags: Instances) -> Tensor:
        """Return an instance's share of the sum of all detections in its bag: (K, n)."""
        detections = self._detected(bags).sum(-1, keepdim=True) * bags.present()[..., None]
        return (detections / bags.bag_sums(detections)[:, bags.bag]).squeeze(-1)

    def _detected(self, bags: Instances) -> Tensor:
        return torch.sigmoid(bags.linear(self.detect).float())


class Transformer(nn.Module):
    """A transformer block in which a bag's instances attend to each other, then linear-score attention.

    The block is that of Vaswani et al. 2017 with pre-normalisation and without positions, since a bag has no
    order. Together with the pooling by attention it is a small Set Transformer (Lee et al. 2019).
    """

    HEADS = 4

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = hidden = config.hidden
        self.embed = Linear(inputs, hidden, generators)
        self.query_key_value = Linear(hidden, 3 * hidden, generators)
        self.mix = Linear(hidden, hidden, generators)
        self.widen = Linear(hidden, 2 * hidden, generators)
        self.narrow = Linear(2 * hidden, hidden, generators)
        self.score = Linear(hidden, 1, generators, zero=config.zero_start, bias=False)

    def forward(self, bags: Instances) -> Tensor:
        x = self._block(bags)
        return bags.averages(self._scores(x), x)

    def attention(self, bags: Instances) -> Tensor:
        return bags.shares(self._scores(self._block(bags)))

    def _scores(self, x: Tensor) -> Tensor:
        return self.score(x).squeeze(-1)

    def _block(self, bags: Instances) -> Tensor:
        precision = bags.x.dtype  # of the products; sums stay in float32
        x = bags.linear(self.embed).float()  # (K, n, H)
        x = x + self.mix(self._attend(_normalise(x).to(precision), bags))
        return x + self.narrow(torch.relu(self.widen(_normalise(x).to(precision))))

    def _attend(self, x: Tensor, bags: Instances) -> Tensor:
        """Apply multi-head self-attention within each bag: (K, n, H) -> (K, n, H)."""
        # In float32, because on a CPU torch's gradient takes twice as long in bfloat16. Bag by bag, because
        # with bags padded to the longest most of the work would go into padding.
        joint = self.query_key_value(x).float().unflatten(-1, (3, self.HEADS, -1)).permute(2, 0, 3, 1, 4)
        present = bags.present()[:, None, None]  # (K, 1, 1, n)
        with _same_bits_each_time(x.device):
            mixed = [
                functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
                for (query, key, value), mask in zip(
                    joint.split(list(bags.sizes), 3), present.split(list(bags.sizes), 3), strict=True
                )
            ]
        return torch.cat(mixed, 2).transpose(1, 2).flatten(2).to(x.dtype)


def _same_bits_each_time(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Exclude the fused attention of CUDA, whose gradient adds in a random order; that of CPUs does not."""
    return contextlib.nullcontext() if device.type == "cpu" else sdpa_kernel(SDPBackend.MATH)


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
