"""The embedder: normalisation, fused BatchNorm, and embeddings that do not depend on their batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder, fuse_batch_norm

CPU = torch.device("cpu")


def images(count: int, side: int = 64) -> Tensor:
    """Normalised random images."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def pixels(count: int, side: int = 64) -> Tensor:
    """Random images as they are decoded."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def test_an_untraceable_network_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """And the log says so."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.convolution(x)) if x.sum() > 0 else x

    with caplog.at_level("INFO", "mil_toolkit"):
        folded = fuse_batch_norm(Branching())
    assert any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
    assert "cannot be traced" in caplog.text


class _Shared(nn.Module):
    """A convolution whose output is used twice, and one that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm_first, self.norm_second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Use both."""
        y = self.first(x)
        z = self.norm_second(self.second(y))
        return self.norm_first(y) + y + self.second(z)


def test_shared_convolutions_are_not_fused() -> None:
    """Fusion would change their other uses."""
    network = _Shared().eval()
    for norm in (network.norm_first, network.norm_second):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    x = images(2, 4)
    with torch.no_grad():
        assert torch.equal(fuse_batch_norm(network)(x), network(x))


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    """A small embedder in float32."""
    yield Embedder(build_backbone("resnet18", "random"), CPU, torch.float32)


def test_embedder_is_the_backbone_on_normalised_pixels(embedder: Embedder) -> None:
    """Against the written-out formula."""
    backbone = build_backbone("resnet18", "random")
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.mean, backbone.std))
    x = (pixels(3).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = backbone.network(x)
    assert torch.allclose(embedder(pixels(3)).float(), expected, rtol=2e-3, atol=1e-3)
    assert embedder(pixels(3)).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_images_embedding_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    """In batches of one size, so a resumed run gives the same bits."""
    embedder = Embedder(build_backbone("resnet18", "random"), CPU, dtype)
    whole = embedder(pixels(8))
    assert torch.equal(embedder(pixels(8).flip(0)), whole.flip(0))
    alone = torch.zeros_like(pixels(8))
    alone[5] = pixels(8)[2]
    assert torch.equal(embedder(alone)[5], whole[2])


def test_bfloat16_embeddings_have_the_direction_of_float32_ones(embedder: Embedder) -> None:
    """The cosine between bfloat16 and float32."""
    half = Embedder(build_backbone("resnet18", "random"), CPU, torch.bfloat16)
    cosine = torch.cosine_similarity(half(pixels(4)).float(), embedder(pixels(4)).float())
    assert cosine.min() > 0.999
