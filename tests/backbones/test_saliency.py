"""Saliency on hand-made networks: gradients that are known, differences, and which layer is the last map."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from mil_toolkit.backbones.saliency import (
    GREY,
    STEP,
    WINDOW,
    enlarged,
    gradient_map,
    highest,
    last_feature_map,
    occlusion_map,
)


def linear_network() -> nn.Sequential:
    """A convolution whose map of 4 x 4 places is averaged: the embedding is linear in the map."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Tokens(nn.Module):
    """A small vision transformer: patches become a sequence of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.block(self.patches(x).flatten(2).transpose(1, 2))
        return tokens.mean(1)


def test_the_gradient_of_a_linear_network_is_its_weights_times_the_map() -> None:
    network, x, gradient = linear_network(), torch.randn(1, 3, 16, 16), torch.randn(5)
    features = network[0](x)[0]  # (5, 4, 4)
    expected = (gradient[:, None, None] * features / 16).sum(0)
    found = gradient_map(network, "0", x, gradient)
    np.testing.assert_allclose(found, expected.clamp(min=0).detach(), atol=1e-6)
    opposite = gradient_map(network, "0", x, -gradient)
    np.testing.assert_allclose(found - opposite, expected.detach(), atol=1e-6)
    total = float((network(x)[0] @ gradient).detach())  # the parts add up to the output
    assert float((found - opposite).sum()) == pytest.approx(total, abs=1e-5)


def test_a_layer_that_changes_the_map_in_place_does_no_harm() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.ReLU(inplace=True), nn.Flatten())
    found = gradient_map(network, "0", torch.randn(1, 3, 16, 16), torch.randn(80))
    assert found.shape == (4, 4) and found.max() > 0


def test_the_last_feature_map_has_several_places_and_no_tokens_after_it() -> None:
    x = torch.randn(1, 3, 64, 64)
    assert last_feature_map(linear_network(), x) == "0"
    network = resnet18()
    network.fc = nn.Identity()
    assert last_feature_map(network.eval(), x) == "layer4"
    assert last_feature_map(network, x[..., :32, :32]) == "layer3"  # layer4 has a single place there
    assert last_feature_map(Tokens().eval(), x) is None
    assert not any(module._forward_hooks for module in network.modules())


def test_occlusion_is_the_mean_fall_of_the_windows_that_hide_a_place() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(128, 255, (16, 16, 3), dtype=np.uint8)
    weights = random.random((16, 16, 3))
    found = occlusion_map(pixels, lambda images: (images * weights).sum((1, 2, 3)))
    window, step = round(16 * WINDOW), round(16 * STEP)
    falls = ((pixels.astype(float) - GREY) * weights).sum(-1)
    padded = np.pad(falls, window)  # a window may reach beyond the image
    for row, column in ((0, 0), (5, 9), (15, 3)):
        around = [
            padded[window + first : 2 * window + first, window + left : 2 * window + left].sum()
            for first in range(step - window, 16, step)
            for left in range(step - window, 16, step)
            if first <= row < first + window and left <= column < left + window
        ]
        assert len(around) == (window // step) ** 2
        assert found[row, column] == pytest.approx(np.mean(around), rel=1e-5)
    assert found.shape == (16, 16) and (found > 0).all()


def test_occlusion_finds_the_only_part_that_counts() -> None:
    pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
    found = occlusion_map(pixels, lambda images: images[:, 20:24, 4:8].mean((1, 2, 3)))
    row, column = highest(found, 32)
    assert 18 <= row <= 25 and 2 <= column <= 9
    rising = occlusion_map(pixels, lambda images: -images[:, 20:24, 4:8].mean((1, 2, 3)))
    assert not rising.any()  # what speaks against the output does not count


def test_a_map_is_enlarged_to_the_pixels_of_the_image() -> None:
    found = np.zeros((4, 4), dtype=np.float32)
    found[1, 3] = 1
    assert enlarged(found, 64).shape == (64, 64)
    row, column = highest(found, 64)
    assert 16 <= row < 32 and 48 <= column < 64
