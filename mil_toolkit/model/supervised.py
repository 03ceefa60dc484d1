"""Poolings that predict instances as well, whose predictions are trained with the label of the bag."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear
from mil_toolkit.model.weighted import GatedAttention


class Terms(NamedTuple):
    """What a pooling predicts from single instances.

    logits: (K, B), added to the logits of the bags; None for none
    losses: (K, B, C), the loss of the predictions if the bag were of each of C classes; training adds that of
        its label. None for none.
    """

    logits: Tensor | None = None
    losses: Tensor | None = None

    @classmethod
    def mean(cls, parts: Sequence["Terms"]) -> "Terms":
        """Return the mean over several poolings of one kind."""
        return cls(*(_mean(values) for values in zip(*parts, strict=True)))


def _mean(values: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [value for value in values if value is not None]
    return torch.stack(tensors).mean(0) if tensors else None


class Supervised(nn.Module):
    """A pooling that predicts instances as well; subclasses implement `with_terms`."""

    def with_terms(self, bags: Instances) -> tuple[Tensor, Terms]:
        """Return the pooled bags (K, B, width), and what the pooling predicts from single instances."""
        raise NotImplementedError

    def forward(self, bags: Instances) -> Tensor:
        return self.with_terms(bags)[0]


class Dsmil(Supervised):
    """Dual-stream pooling (DSMIL); Li, Li and Eliceiri 2021, section 3.2.

    The first stream scores each instance h_i by c_i = w h_i + b; the critical instance m has the highest
    score, c_m. The second stream is the mean of the bag with weights softmax_i(<q_i, q_m> / sqrt(H)), where
    q_i = W h_i is the query of an instance. The logit of a bag is (classifier(mean) + c_m) / 2, and the loss
    of c_m is the cross-entropy with the label of the bag.

    As in the authors' code, scores are divided by the square root of the queries' width H, and the values
    are the instances themselves: a linear map before the linear classifier would add nothing. Instances that
    share the highest score share the role of the critical one, so that their order does not matter.
    """

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs
        self.instance = Linear(inputs, 1, generators, zero=config.zero_start)
        self.query = Linear(inputs, config.hidden, generators)

    def with_terms(self, bags: Instances) -> tuple[Tensor, Terms]:
        scores = self._scores(bags)
        critical = bags.highest(scores)  # (K, B)
        losses = functional.softplus(torch.stack([critical, -critical], -1))
        weighted = bags.pooled(self._similarities(bags, scores))
        return weighted / 2, Terms(critical / 2, losses)

    def attention(self, bags: Instances) -> Tensor:
        return bags.shares(self._similarities(bags, self._scores(bags)))

    def _scores(self, bags: Instances) -> Tensor:
        """Return the scores of the first stream, (K, n); -inf for instances that dropout leaves out."""
        scores = bags.linear(self.instance).squeeze(-1).float()
        return scores if bags.kept is None else scores.masked_fill(~bags.kept, -math.inf)

    def _similarities(self, bags: Instances, scores: Tensor) -> Tensor:
        """Return the product of each instance's query with that of its bag's critical instance, (K, n)."""
        queries = bags.linear(self.query).float()  # (K, n, H)
        scores = scores.detach()
        is_critical = scores == bags.highest(scores)[:, bags.bag]
        critical = bags.means_of(is_critical, queries)  # (K, B, H)
        return (queries * critical[:, bags.bag]).sum(-1) / math.sqrt(queries.shape[-1])


class Clam(Supervised, GatedAttention):
    """Gated attention with the instance-level clustering of CLAM; Lu et al. 2021, Methods.

    The attention decides which instances are evidence: of each bag the `MOST` instances (at most half of the
    bag, at least one) with the highest and as many with the lowest attention. A linear classifier for each
    class tells evidence for the class (+1) from no evidence (-1). For the class of the bag, the highest are
    +1 and the lowest are -1; for other classes, which exclude it, the highest are -1. The loss is the smooth
    top-1 SVM (Berrada, Zisserman and Kumar 2018, with alpha = tau = 1), which of two classes is
    softplus(1 - y s) for the score s and the sign y; its mean over the instances, then over the classes.

    The loss is computed only where gradients are. Instances that share a score at the border are all counted.
    """

    MOST, MARGIN, CLASSES = 8, 1.0, 2

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__(inputs, config, generators)
        self.evidence = Linear(inputs, self.CLASSES, generators)

    def with_terms(self, bags: Instances) -> tuple[Tensor, Terms]:
        scores = self.scores(bags)
        losses = self._losses(bags, scores.detach()) if torch.is_grad_enabled() else None
        return bags.pooled(scores), Terms(losses=losses)

    def _losses(self, bags: Instances, scores: Tensor) -> Tensor:
        """Return the loss of each bag if it were of each class: (K, B, C)."""
        highest, lowest = bags.extremes(scores, self.MOST)
        evidence = bags.linear(self.evidence).float()  # (K, n, C)
        as_evidence, as_none = (functional.softplus(self.MARGIN - sign * evidence) for sign in (1, -1))
        inside = (bags.means_of(highest, as_evidence) + bags.means_of(lowest, as_none)) / 2
        outside = bags.means_of(highest, as_none)
        return (inside + outside.sum(-1, keepdim=True) - outside) / self.CLASSES
