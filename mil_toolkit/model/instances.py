"""`Instances`: packed bags as K members see them, and the products and sums that poolings consist of."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mil_toolkit.model.kernels import Activation, bmm
from mil_toolkit.model.layers import Linear, activated, linear

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

    def repeated(self, heads: int) -> "Instances":
        """Return the same bags for `heads` times as many members, those of each member consecutive.

        They are the attention heads of the members, each with scores of its own: (K * heads, n).
        """
        if heads == 1:
            return self
        shift, scale, kept = (
            None if part is None else part.repeat_interleave(heads, 0)
            for part in (self.shift, self.scale, self.kept)
        )
        return replace(self, member_count=heads * self.member_count, shift=shift, scale=scale, kept=kept)

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

    @property
    def blocks(self) -> Sequence["Instances"]:
        """The bags in blocks of consecutive ones, so that memory grows with the number of instances only."""
        return self._several_blocks or [self]

    @cached_property
    def _several_blocks(self) -> Sequence["Instances"]:
        """The blocks, empty if one is enough: storing `self` would delay the release of the tensors."""
        if len(self.sizes) == 1 or len(self.sizes) * self.bag.shape[0] <= WHOLE:
            return []
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
        """Average values (G, n, O) over each bag with the softmax of scores (K, n): (K, B, O).

        Each of the G is shared by K / G consecutive members.
        """
        parts = iter(values.split([block.bag.shape[0] for block in self.blocks], 1))
        return self._of_blocks(lambda block, part: _sums(block.softmax(part), next(parts)), scores)

    def lowest(self, scores: Tensor, count: int) -> Tensor:
        """Return the lowest of each bag's `count` highest scores, of scores (K, n): (K, B)."""
        return self._of_blocks(lambda block, part: block._lowest(part, count), scores)

    def highest(self, scores: Tensor) -> Tensor:
        """Return the highest of each bag's scores (K, n), (K, B); equal scores share its gradient."""
        return self._of_blocks(lambda block, part: (part[:, None] + block.outside).amax(-1), scores)

    def extremes(self, scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Return which kept instances have the highest and which the lowest scores of their bag: (K, n) bool.

        Each has half of the bag's instances, but at least one and at most `most`, and all that share the
        score of the last of them. scores: (K, n), without gradients
        """
        kept = self.present()
        by_score = scores.masked_fill(~kept, -math.inf).argsort(dim=-1, descending=True)
        by_bag = self.bag[by_score].argsort(dim=-1, stable=True)
        order = by_score.gather(-1, by_bag)  # bag after bag, the highest score of each first
        bags = torch.arange(len(self.sizes), device=self.bag.device)
        first = torch.searchsorted(self.bag, bags)  # (B,)
        counts = self.bag_sums(kept[..., None].float()).squeeze(-1).long()  # (K, B)
        selected = (counts // 2).clamp(1, most)
        top, bottom = (
            scores.gather(-1, order.gather(-1, places))[:, self.bag]
            for places in (first + selected - 1, first + counts - selected)
        )
        return kept & (scores >= top), kept & (scores <= bottom)

    def means_of(self, chosen: Tensor, values: Tensor) -> Tensor:
        """Average values (K, n, O) over each bag's chosen instances, (K, n) bool: (K, B, O)."""
        equal = torch.zeros(chosen.shape, device=chosen.device)
        return self.averages(equal.masked_fill(~chosen, -math.inf), values)

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
        """Return the standardised embeddings, for poolings of single columns: (K, n, D) float32."""
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


def _sums(weights: Tensor, values: Tensor) -> Tensor:
    """Sum values (G, n, O) with weights (K, B, n): (K, B, O)."""
    sums = torch.bmm(weights.reshape(len(values), -1, weights.shape[-1]), values)
    return sums.view(*weights.shape[:2], -1)


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
