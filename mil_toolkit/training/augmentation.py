"""Random augmentation of images: symmetries of the square, and colour."""

import torch
from torch import Tensor

from mil_toolkit.features.orientations import SYMMETRIES


def augment(pixels: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Turn and flip each image to one of its eight orientations, and change the strength of its colours.

    pixels: (n, S, S, 3) uint8; the result has the same shape and type
    jitter: each colour channel of an image is multiplied by a factor from [1 - jitter, 1 + jitter)
    """
    kinds = torch.randint(SYMMETRIES, (len(pixels),), generator=generator).tolist()
    turned = torch.empty_like(pixels)
    for kind in range(SYMMETRIES):
        rows = [row for row, drawn in enumerate(kinds) if drawn == kind]
        turned[rows] = turn(pixels[rows], kind)
    factors = 1 + jitter * (2 * torch.rand(len(pixels), 1, 1, 3, generator=generator) - 1)
    return (turned * factors.to(pixels.device)).round_().clamp_(max=255).to(torch.uint8)


def turn(images: Tensor, kind: int) -> Tensor:
    """Return images (..., S, S, 3) in one of their orientations, as `features.orientations.turn` does."""
    turned = images.rot90(kind % 4, (-3, -2))
    return turned.flip(-3) if kind >= SYMMETRIES // 2 else turned
