"""Random images."""

import torch
from torch import Tensor


def random_pixels(count: int, size: int = 32) -> Tensor:
    """Return the same random images every time, (count, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
