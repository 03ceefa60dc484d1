"""`InstanceNetwork`: layers that transform each instance before the pooling."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Dropout, Linear, keep_all

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "gelu": functional.gelu}


class InstanceNetwork(nn.Module):
    """Fully connected layers on each instance, with activation and dropout.

    It is the transformation f before the pooling in Ilse et al. 2018, section 2.2.

    widths: columns of each view that has layers of its own; the instances hold those of one view after the
        other
    output_widths: columns of each view after its layers
    """

    def __init__(self, widths: Sequence[int], config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.widths, self.output_widths = tuple(widths), (config.instance_width,) * len(widths)
        self.activation, self.rate = ACTIVATIONS[config.instance_activation], config.instance_layer_dropout
        self.views = nn.ModuleList(
            nn.ModuleList(
                Linear(columns, config.instance_width, generators)
                for columns in (width, *[config.instance_width] * (config.instance_layers - 1))
            )
            for width in widths
        )

    @property
    def dropouts(self) -> list[tuple[int, float]]:
        """Number of columns and rate of each dropout of a forward pass, in order."""
        layers = [cast(Linear, layer) for view in self.views for layer in cast(nn.ModuleList, view)]
        return [(layer.weight.shape[-1], self.rate) for layer in layers]

    def forward(self, bags: Instances, dropout: Dropout = keep_all) -> Instances:
        """Transform the instances: (G, n, D) -> (K, n, sum of the output widths), in the same precision."""
        parts = [
            self._of_view(cast(Iterable[Linear], layers), part, dropout)
            for layers, part in zip(self.views, bags.columns(self.widths), strict=True)
        ]
        x = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        return replace(bags, x=x, shift=None, scale=None)

    def _of_view(self, layers: Iterable[Linear], bags: Instances, dropout: Dropout) -> Tensor:
        for layer in layers:
            x = self.activation(bags.linear(layer))  # (K, n, instance_width)
            x = dropout(x, self.rate).to(x.dtype)
            bags = replace(bags, x=x, shift=None, scale=None)
        return bags.x
