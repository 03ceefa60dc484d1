"""`WholeLayers`: how the forward of a backbone is traced."""

from torch import fx, nn

# Raised by torch.fx for a forward that cannot be traced, such as one with control flow.
UNTRACEABLE = (TypeError, ValueError, RuntimeError, AttributeError)


class WholeLayers(fx.Tracer):
    """A tracer that keeps each convolution and BatchNorm as one node, including timm's subclasses."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Return whether a module becomes one node instead of being traced into."""
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(
            module, qualified_name
        )
