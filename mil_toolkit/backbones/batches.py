"""`in_whole_batch`: apply a network to a fixed number of images, however many there are."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_whole_batch(network: Callable[[Tensor], Tensor], x: Tensor, size: int | None) -> Tensor:
    """Apply a network to x (n, ...), which on any device but a CPU is padded with zeros to `size` rows.

    size: at least n, None for n. cuDNN chooses kernels by the size of the batch: with a fixed one, the result
        for an image does not depend on how many others come with it, and no plan is made for the rest.

    Returns the n rows of the result. The gradients of the others are zero.
    """
    if size is None or x.device.type == "cpu" or len(x) == size:
        return network(x)
    return network(_padded(x, size))[: len(x)]


def _padded(x: Tensor, size: int) -> Tensor:
    """Return x (n, ...) with rows of zeros, (size, ...), in the same memory format."""
    filler = x.new_zeros(()).expand(size - len(x), *x.shape[1:])
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.cat([x, filler]).contiguous(memory_format=torch.channels_last)
    return torch.cat([x, filler])
