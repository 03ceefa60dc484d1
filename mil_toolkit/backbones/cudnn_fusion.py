"""`fuse_for_cudnn`: convolutions whose bias, sum and ReLU cuDNN computes in one kernel."""

import logging

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.fusion import RELU, Followed, fuse_followers
from mil_toolkit.core.device_memory import is_out_of_memory

logger = logging.getLogger(__name__)


class CudnnConvolution(nn.Module):
    """A convolution, followed by a sum with another tensor if there is one, and by ReLU."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        """Convolve `x`, add `summand` and apply ReLU."""
        layer, padding = self.layer, self.layer.padding
        assert not isinstance(padding, str)  # `fuse_followers` leaves these convolutions as they are
        weight, bias = layer.weight, layer.bias
        stride, dilation, groups = layer.stride, layer.dilation, layer.groups
        if summand is None:
            return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
        return torch.cudnn_convolution_add_relu(
            x, weight, summand, 1.0, bias, stride, padding, dilation, groups
        )


def fuse_for_cudnn(network: nn.Module, count: int, side: int) -> nn.Module:
    """Return the network with fused convolutions; the outputs are equal up to rounding.

    network: in evaluation mode, on a CUDA device, in the precision and memory layout of its inputs
    count, side: of the images that it will be given at once, (count, 3, side, side)

    Returns the network itself if its forward cannot be traced, or if cuDNN has no such kernels for this
    device, precision or size. This is found out by one batch and not by timing, so that the same device
    always computes the same bits. Raises the errors of `is_out_of_memory` if the batch does not fit.
    """
    fused = fuse_followers(network, side, _fuse)
    if not any(isinstance(layer, CudnnConvolution) for layer in fused.modules()):
        return network
    images = next(network.parameters()).new_zeros(count, 3, side, side)
    try:
        with torch.inference_mode():
            fused(images.to(memory_format=torch.channels_last))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        logger.info("Convolutions are not fused with what follows them: %s", error)
        return network
    return fused


def _fuse(followed: Followed) -> nn.Module | None:
    """Fuse what ends with ReLU; cuDNN has no fused kernels for groups."""
    if followed.activation != RELU or followed.layer.groups != 1:
        return None
    return CudnnConvolution(followed.layer)
