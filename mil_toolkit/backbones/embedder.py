"""From pixels to embeddings: normalisation, BatchNorm folding and precision."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.weights import logger

UNTRACEABLE = (TypeError, ValueError, RuntimeError, AttributeError)  # what tracing control flow raises


class WholeLayers(fx.Tracer):
    """Sees convolutions and normalisations as one node each, also those that timm derives from torch's."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Whether a module is taken as a whole."""
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(
            module, qualified_name
        )


def fold(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorms are folded into the convolutions before them: equal but for rounding.

    A network whose forward cannot be traced comes back as it is, with a log line.
    """
    network = copy.deepcopy(network).eval()
    try:
        graph = WholeLayers().trace(network)
    except UNTRACEABLE as error:
        logger.info("BatchNorm is not folded, since the network cannot be traced: %s", error)
        return network
    for convolution, norm in _foldable(network, graph):
        _fold_pair(network, convolution, norm)
    return network


def _fold_pair(network: nn.Module, convolution: str, norm: str) -> None:
    layer, after = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
    network.set_submodule(convolution, fuse_conv_bn_eval(layer, after))
    # timm's BatchNormAct2d is a norm and the activation behind it.
    network.set_submodule(norm, getattr(after, "act", nn.Identity()))


def _foldable(network: nn.Module, graph: fx.Graph) -> Iterable[tuple[str, str]]:
    """Names of each convolution whose output goes to one BatchNorm and nowhere else, both used once."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = [node.target for node in calls]
    for node in calls:
        before = node.args[0]
        if not isinstance(network.get_submodule(node.target), nn.BatchNorm2d) or before not in calls:
            continue
        once = uses.count(node.target) == uses.count(before.target) == len(before.users) == 1
        if once and isinstance(network.get_submodule(before.target), nn.Conv2d):
            yield before.target, node.target


class Normaliser(nn.Module):
    """Pixels (n, S, S, 3) uint8 as a backbone wants them: (n, 3, S, S), channels last, in `dtype`."""

    def __init__(self, backbone: Backbone, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.mean = torch.tensor(backbone.mean, device=device) * 255
        self.variance = (torch.tensor(backbone.std, device=device) * 255) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        # Whole numbers up to 255 are exact in every precision, and batch_norm computes in float32: one pass,
        # rounded once. Rows of S * 3 values: ten times quicker than with an innermost axis of three.
        rows, width = pixels.flatten(0, 1).flatten(1).to(self.dtype), pixels.shape[2]  # (n * S, S * 3)
        rows = batch_norm(rows, self.mean.repeat(width), self.variance.repeat(width), eps=0.0)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)  # channels last without a copy


class Embedder(nn.Module):
    """A backbone made ready to run: folded, channels last, on its device, in its precision.

    Takes pixels (n, S, S, 3) uint8 on that device, gives embeddings (n, width) float16.
    """

    def __init__(self, backbone: Backbone, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.normalise = Normaliser(backbone, device, dtype)
        network = fold(backbone.network).to(device, dtype)
        self.network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        embeddings: Tensor = self.network(self.normalise(pixels))
        return embeddings.to(torch.float16)
