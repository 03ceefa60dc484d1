"""Exact gradients through a backbone, for bags of any size in a constant amount of memory."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.batches import in_whole_batch
from mil_toolkit.backbones.embedder import Normaliser, fuse_batch_norm
from mil_toolkit.backbones.parts import ALL, divide
from mil_toolkit.training.spill import Spill


class Halves:
    """A copy of a backbone, divided into a frozen half and a half to be trained, which begins at `part`.

    network: the whole network in float32 on `device`; only parameters of the trained half require gradients
    chunk: number of images in a whole chunk, see `in_whole_batch`


    BatchNorm layers use and keep the running statistics of the given backbone, so the embedding of an image
    does not depend on other images.
    """

    def __init__(
        self,
        backbone: Backbone,
        part: str,
        device: torch.device,
        dtype: torch.dtype,
        chunk: int | None = None,
    ):
        self.device, self.dtype, self.chunk = device, dtype, chunk
        network = copy.deepcopy(backbone.network).to(device)
        self.network = network.to(memory_format=torch.channels_last).requires_grad_(False)
        before, self._behind = divide(self.network, part)
        self._behind.requires_grad_(True)
        normalise = Normaliser(backbone, device, dtype)
        if part == ALL:
            self._before: nn.Module = nn.Identity()  # pixels take the least space between the passes
            self._behind = nn.Sequential(normalise, self._behind)
        else:
            # Folding BatchNorm rounds again. In float32 this would be the largest error of the gradients.
            self._before = nn.Sequential(
                normalise, before if dtype == torch.float32 else fuse_batch_norm(before).to(dtype)
            )

    def frozen(self, pixels: Tensor) -> Tensor:
        """Apply the frozen half to pixels (n, S, S, 3) uint8: inputs of the trained half, in `dtype`."""
        return in_whole_batch(self._before, pixels, self.chunk)

    def trained(self, entering: Tensor) -> Tensor:
        """Apply the trained half to its inputs, with products in `dtype`: (n, width) float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            embeddings = in_whole_batch(self._behind, entering.to(self.device), self.chunk)
        return embeddings.float()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by their names in the network."""
        named = self.network.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}


def _unscaled(gradient: Tensor) -> Tensor:
    return gradient


def backpropagate(
    chunks: Iterable[Tensor],
    halves: Halves,
    loss_of: Callable[[Tensor], Tensor],
    spill: Spill,
    scale: Callable[[Tensor], Tensor] = _unscaled,
) -> float:
    """Add the gradient of a loss to the `grad` of every parameter, and return the loss.

    chunks: any number of chunks of pixels, (n, S, S, 3) uint8
    loss_of: the loss () as a function of the embeddings (N, width) of all images
    scale: applied to the gradients that enter the backbone

    1. Embed all chunks without gradients.
    2. Compute the gradient of the loss with respect to the embeddings.
    3. Embed each chunk again, now with gradients, and backpropagate its rows of that gradient.

    By the chain rule this equals backpropagation through all images at once, but only the activations of one
    chunk are in memory. The inputs of the trained half are kept in `spill` between the passes, so
    augmentation and the frozen half run once per image.
    """
    embeddings = []
    with torch.inference_mode():
        for pixels in chunks:
            entering = halves.frozen(pixels)
            spill.write(entering)
            embeddings.append(halves.trained(entering))
    sizes = [len(chunk) for chunk in embeddings]
    joined = torch.cat(embeddings).requires_grad_()
    del embeddings
    loss = loss_of(joined)
    loss.backward()
    assert joined.grad is not None
    for entering, gradient in zip(spill.read(), joined.grad.split(sizes), strict=True):
        halves.trained(entering).backward(scale(gradient))
    return loss.item()
