"""`Embedder`: computes embeddings from pixels; normalisation, BatchNorm fusion and precision."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.cudnn_fusion import fuse_for_cudnn
from mil_toolkit.backbones.packing import pack
from mil_toolkit.backbones.tracing import UNTRACEABLE, WholeLayers
from mil_toolkit.backbones.weights import logger


def fuse_batch_norm(network: nn.Module) -> nn.Module:
    """Return a copy of the network with each BatchNorm fused into the convolution before it.

    The outputs are equal up to rounding. If the forward cannot be traced, the copy is returned unfused and a
    log line says so.
    """
    network = copy.deepcopy(network).eval()
    try:
        graph = WholeLayers().trace(network)
    except UNTRACEABLE as error:
        logger.info("BatchNorm is not fused because the network cannot be traced: %s", error)
        return network
    for convolution, norm in _fusible(network, graph):
        _fuse_pair(network, convolution, norm)
    return network


def _fuse_pair(network: nn.Module, convolution: str, norm: str) -> None:
    conv_layer, norm_layer = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(conv_layer, nn.Conv2d) and isinstance(norm_layer, nn.BatchNorm2d)
    network.set_submodule(convolution, fuse_conv_bn_eval(conv_layer, norm_layer))
    # timm's BatchNormAct2d is a BatchNorm followed by an activation, which has to stay.
    network.set_submodule(norm, getattr(norm_layer, "act", nn.Identity()))


def _fusible(network: nn.Module, graph: fx.Graph) -> Iterable[tuple[str, str]]:
    """Yield the names of each convolution and BatchNorm, both used once, where one feeds only the other."""
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
    """Normalises pixels (n, S, S, 3) uint8 to a backbone's input (n, 3, S, S), channels last, in `dtype`."""

    def __init__(self, backbone: Backbone, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.mean = torch.tensor(backbone.mean, device=device) * 255
        self.variance = (torch.tensor(backbone.std, device=device) * 255) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (n, S, S, 3) uint8 on the device: (n, 3, S, S)."""
        # Integers up to 255 are exact in every precision and batch_norm computes in float32, so that one pass
        # rounds once. With rows of S * 3 values it is ten times faster than with an innermost axis of three.
        rows, width = pixels.flatten(0, 1).flatten(1).to(self.dtype), pixels.shape[2]  # (n * S, S * 3)
        rows = batch_norm(rows, self.mean.repeat(width), self.variance.repeat(width), eps=0.0)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)  # channels last without a copy


class Embedder(nn.Module):
    """A backbone prepared for inference: BatchNorm fused, channels last, on its device, in its precision.

    batch: number and side of the images of each call; if given, convolutions are fused with what follows
        them, see `pack` and `fuse_for_cudnn`
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        dtype: torch.dtype,
        batch: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.normalise = Normaliser(backbone, device, dtype)
        network = fuse_batch_norm(backbone.network).to(device, dtype).to(memory_format=torch.channels_last)
        fuse = {"cpu": pack, "cuda": fuse_for_cudnn}.get(device.type)
        self.network = fuse(network, *batch) if batch and fuse else network

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels (n, S, S, 3) uint8 on the device: (n, width) float16."""
        embeddings: Tensor = self.network(self.normalise(pixels))
        return embeddings.to(torch.float16)
