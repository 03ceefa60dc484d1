"""Which parts of an image an output depends on: by the gradient at the last feature map, or by occlusion."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]
"""How much each place of an image counts, (h, w), at least zero."""

GREY = 127  # of the pixels that hide a part of an image
# Side of the part that is hidden, and the distance of its places, as shares of the image's side
WINDOW, STEP = 0.25, 0.125


def last_feature_map(network: nn.Module, x: Tensor) -> str | None:
    """Return the name of the module whose output is the last feature map; None if the network has none.

    x: (1, 3, S, S) normalised

    A feature map has four axes, (n, C, h, w) with more than one place. A network whose later modules return
    sequences of tokens, such as a vision transformer, has none: its tokens see the whole image.
    """
    last: list[str | None] = [None]

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
                last[0] = name
            elif isinstance(output, Tensor) and output.ndim == 3 and output.shape[1] > 1:
                last[0] = None

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return last[0]


def gradient_map(network: nn.Module, layer: str, x: Tensor, gradient: Tensor) -> Map:
    """Return where the last feature map raises an output of which this is the gradient: (h, w).

    layer: name of the module that returns the map, see `last_feature_map`
    Shapes: x (1, 3, S, S) normalised, gradient (D,) of the output with respect to the image's embedding

    The gradient with respect to the map is multiplied with the map, summed over the channels, and negative
    sums are cut off (Draelos and Carin 2020, HiResCAM). If the embedding is the mean of the map, that is
    Grad-CAM (Selvaraju et al. 2017) up to a factor.
    """
    held: list[Tensor] = []

    def hold(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[-1].clone()  # what follows may change it in place

    hook = network.get_submodule(layer).register_forward_hook(hold)
    try:
        with torch.enable_grad():
            output = (network(x)[0] * gradient).sum()
    finally:
        hook.remove()
    (slope,) = torch.autograd.grad(output, held[-1])
    positive = (slope * held[-1]).sum(1)[0].clamp(min=0)
    return positive.detach().numpy().astype(np.float32)


def occlusion_map(pixels: Pixels, output: Callable[[Pixels], NDArray[np.float64]]) -> Map:
    """Return how much an output falls where a part of an image is hidden (Zeiler and Fergus 2014): (h, w).

    pixels: (S, S, 3); output: returns the outputs (n,) of images (n, S, S, 3)

    Each place has the mean fall over the windows that hide it; a rise counts as zero. The outer windows reach
    beyond the image, so that the same number of windows hides each place.
    """
    side = len(pixels)
    window, step = max(1, round(WINDOW * side)), max(1, round(STEP * side))
    starts = range(step - window, side, step)
    windows = [
        np.s_[max(0, row) : row + window, max(0, column) : column + window]
        for row in starts
        for column in starts
    ]
    hidden = np.repeat(pixels[None], len(windows), axis=0)
    for image, place in zip(hidden, windows, strict=True):
        image[place] = GREY
    falls = np.asarray(output(pixels[None]))[0] - np.asarray(output(hidden))
    total, count = np.zeros((side, side)), np.zeros((side, side))
    for fall, place in zip(falls, windows, strict=True):
        total[place] += fall
        count[place] += 1
    return np.maximum(total / count, 0).astype(np.float32)


def enlarged(found: Map, side: int) -> Map:
    """Return a map with interpolated values at each of the pixels of an image, (side, side)."""
    tensor = torch.from_numpy(np.ascontiguousarray(found))[None, None]
    return interpolate(tensor, (side, side), mode="bilinear", align_corners=False)[0, 0].numpy()


def highest(found: Map, side: int) -> tuple[int, int]:
    """Return row and column of the pixel of an image whose place counts most."""
    row, column = np.unravel_index(int(enlarged(found, side).argmax()), (side, side))
    return int(row), int(column)
