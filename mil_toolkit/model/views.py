"""Late fusion of views: a pooling for each view of the images, whose pooled bags are put side by side."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.poolings import Pooling, build_pooling, pool
from mil_toolkit.model.supervised import Supervised, Terms


class ViewPoolings(Supervised):
    """A pooling for each of several views, whose pooled bags are put side by side.

    widths: columns of each view; the instances hold those of one view after the other
    heads: of the attention, see `model.poolings`
    """

    def __init__(
        self, widths: Sequence[int], config: HeadConfig, generators: Sequence[torch.Generator], heads: int
    ):
        super().__init__()
        self.widths = tuple(widths)
        self.views = nn.ModuleList(build_pooling(width, config, generators, heads) for width in widths)  # type: ignore[misc]
        self.width = sum(view.width for view in self._poolings)

    @property
    def _poolings(self) -> list[Pooling]:
        return list(self.views)  # type: ignore[arg-type]

    def with_terms(self, bags: Instances) -> tuple[Tensor, Terms]:
        """Return the pooled bags side by side, and the mean over the views of what they predict."""
        pooled, terms = zip(*(pool(pooling, part) for pooling, part in self._parts(bags)), strict=True)
        return torch.cat(pooled, -1), Terms.mean(terms)

    def attention(self, bags: Instances) -> Tensor:
        """Return each instance's mean attention over the views: (K, n) or (K, n, heads)."""
        return torch.stack([pooling.attention(part) for pooling, part in self._parts(bags)]).mean(0)

    def _parts(self, bags: Instances) -> Iterator[tuple[Pooling, Instances]]:
        return zip(self._poolings, bags.columns(self.widths), strict=True)


def pooling_of(
    widths: Sequence[int], config: HeadConfig, generators: Sequence[torch.Generator], heads: int = 1
) -> Pooling:
    """Return the pooling of a configuration: one for all columns, or one for each of several views."""
    if len(widths) > 1:
        return ViewPoolings(widths, config, generators, heads)
    return build_pooling(widths[0], config, generators, heads)
