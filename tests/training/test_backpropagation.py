"""Gradients in two passes against plain autograd, for every kind of backbone."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from support.pixels import random_pixels
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import BACKBONES, Backbone, build_backbone
from mil_toolkit.backbones.embedder import Normaliser
from mil_toolkit.backbones.parts import ALL, divide, last_stage
from mil_toolkit.core.errors import UsageError
from mil_toolkit.training.augmentation import augment
from mil_toolkit.training.backpropagation import Halves, backpropagate
from mil_toolkit.training.spill import Shelf, Spill

CPU = torch.device("cpu")
NETWORKS = ("timm:vit_tiny_patch16_224", "timm:convnext_atto")  # two examples of timm:NAME
SIZES = {NETWORKS[0]: 224}  # of the images; all others take 32
NAMES = [name for kind in BACKBONES for name in (NETWORKS if kind == "timm:NAME" else (kind,))]


def backbone(name: str) -> Backbone:
    """Return a backbone with random weights, and BatchNorm statistics that differ from the initial ones."""
    built, random = build_backbone(name, "random"), torch.Generator().manual_seed(3)
    for layer in built.network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(0.1 * torch.randn(layer.num_features, generator=random))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=random))
    return built


def attended(embeddings: Tensor) -> Tensor:
    """Return a loss in which all images of a bag interact."""
    scaled = embeddings / embeddings.detach().std()
    weights = torch.softmax(scaled.mean(1), 0)
    return (weights @ scaled).square().mean()


def gradients(halves: Halves) -> dict[str, Tensor]:
    """Return the gradients of the trained parameters, and clear them."""
    gradients = {name: parameter.grad for name, parameter in halves.parameters.items()}
    assert all(gradient is not None for gradient in gradients.values())
    for parameter in halves.parameters.values():
        parameter.grad = None
    return gradients  # type: ignore[return-value]


def worst_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest relative error of a tensor; one near zero is compared with the mean norm of all."""
    floor = 1e-3 * torch.stack([tensor.norm() for tensor in expected.values()]).mean()
    errors = [
        (actual[name] - tensor).norm() / tensor.norm().clamp(min=floor) for name, tensor in expected.items()
    ]
    return max(errors).item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["last", ALL])
def test_the_gradient_equals_that_of_plain_autograd(name: str, part: str) -> None:
    whole, images = backbone(name), random_pixels(5, SIZES.get(name, 32))
    halves = Halves(whole, last_stage(whole.network) if part == "last" else part, CPU, torch.float32)
    loss = backpropagate(images.split(2), halves, attended, Spill(io.BytesIO()))
    actual = gradients(halves)
    # The same batches: rounding depends on their size, and a ReLU enlarges the error of a value near zero.
    normalise = Normaliser(whole, CPU, torch.float32)
    plain = attended(torch.cat([halves.network(normalise(batch)) for batch in images.split(2)]))
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-5)
    assert worst_error(actual, gradients(halves)) < 1e-5


def test_gradients_of_several_bags_add_up() -> None:
    halves, images = Halves(backbone("resnet18"), "layer4", CPU, torch.float32), random_pixels(6)
    spill = Spill(io.BytesIO())
    for bag in (images[:4], images[4:]):
        backpropagate(bag.split(3), halves, attended, spill)
    actual = gradients(halves)
    normalise = Normaliser(backbone("resnet18"), CPU, torch.float32)
    (
        attended(halves.network(normalise(images[:4]))) + attended(halves.network(normalise(images[4:])))
    ).backward()
    assert worst_error(actual, gradients(halves)) < 1e-5


def test_the_frozen_half_sees_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    halves, seen = Halves(backbone("resnet18"), "layer4", CPU, torch.float32), []
    frozen = halves.frozen
    monkeypatch.setattr(halves, "frozen", lambda images: seen.append(len(images)) or frozen(images))
    backpropagate(random_pixels(5).split(2), halves, attended, Spill(io.BytesIO()))
    assert seen == [2, 2, 1]
    frozen_names = {"conv1.weight", "layer3.1.bn2.bias"}
    assert not frozen_names & halves.parameters.keys() and "layer4.0.conv1.weight" in halves.parameters


def test_batch_norm_keeps_its_statistics() -> None:
    whole = backbone("resnet18")
    halves = Halves(whole, ALL, CPU, torch.float32)
    backpropagate(random_pixels(4).split(2), halves, attended, Spill(io.BytesIO()))
    for name, buffer in halves.network.named_buffers():
        assert torch.equal(buffer, whole.network.get_buffer(name)), name


def test_bfloat16_is_near_float32() -> None:
    whole, by_dtype = backbone("resnet18"), []
    for dtype in (torch.float32, torch.bfloat16):
        halves = Halves(whole, "layer4", CPU, dtype)
        backpropagate(random_pixels(6).split(3), halves, attended, Spill(io.BytesIO()))
        by_dtype.append(gradients(halves))
    exact, rounded = by_dtype
    assert all(gradient.dtype == torch.float32 for gradient in rounded.values())
    assert worst_error(rounded, exact) < 0.2


def test_a_scale_multiplies_only_the_gradient_of_the_backbone() -> None:
    halves, images, spill = (
        Halves(backbone("resnet18"), "layer4.1", CPU, torch.float32),
        random_pixels(3),
        Spill(io.BytesIO()),
    )
    head = nn.Linear(512, 1)
    heads, backbones = [], []
    for scale in (1.0, 8.0):
        head.zero_grad()
        backpropagate([images], halves, lambda x: head(x).square().mean(), spill, lambda g, by=scale: g * by)
        heads.append(head.weight.grad)
        backbones.append(gradients(halves))
    torch.testing.assert_close(heads[0], heads[1])
    unscaled = {name: gradient / 8 for name, gradient in backbones[1].items()}
    assert worst_error(unscaled, backbones[0]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_both_halves_together_equal_the_network(name: str) -> None:
    whole = backbone(name).network
    size = SIZES.get(name, 32)
    before, behind = divide(whole, last_stage(whole))
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(behind(before(images)), whole(images), rtol=0, atol=0)
    owned = {id(parameter) for parameter in whole.parameters()}
    trained = list(behind.parameters())
    assert {id(parameter) for parameter in trained} < owned, "they share the network's own layers"
    assert sum(map(torch.numel, trained)) < sum(map(torch.numel, whole.parameters()))


def test_an_error_about_an_unknown_part_lists_the_parts() -> None:
    with pytest.raises(UsageError, match=r"'layer5' is not one of .*: all, conv1, .*, layer3\.1, layer4,"):
        divide(backbone("resnet18").network, "layer5")
    with pytest.raises(UsageError, match=r"'layer4' is not one of .*blocks\.6, conv_head"):
        divide(backbone("efficientnet_lite0").network, "layer4")


def test_a_network_that_cannot_be_traced_can_only_be_trained_whole() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match="--unfreeze all"):
        divide(Branching(), "layer4")
    assert isinstance(divide(Branching(), ALL)[1], Branching)


@pytest.mark.parametrize("size", [1, 40_000, 2**30], ids=["file", "both", "memory"])
def test_where_the_spill_puts_tensors_does_not_change_any_bit(size: int) -> None:
    """Two chunks of layer4's inputs are 32 KiB each."""
    halves, images = Halves(backbone("resnet18"), "layer4", CPU, torch.float32), random_pixels(16)
    backpropagate(images.split(8), halves, attended, Spill(io.BytesIO()))
    expected, file = gradients(halves), io.BytesIO()
    backpropagate(images.split(8), halves, attended, Spill(file, [Shelf(CPU, size)]))
    actual = gradients(halves)
    assert all(torch.equal(actual[name], gradient) for name, gradient in expected.items())
    assert len(file.getvalue()) == {1: 2 * 2**15, 40_000: 2**15, 2**30: 0}[size]


def test_augmented_images_enter_both_passes() -> None:
    """The second pass computes gradients at the same augmented pixels as the first pass."""
    whole, images = backbone("resnet18"), random_pixels(4)
    halves, random = Halves(whole, ALL, CPU, torch.float32), torch.Generator().manual_seed(9)
    drawn: list[Tensor] = []

    def augmented() -> Iterator[Tensor]:
        for chunk in images.split(3):
            drawn.append(augment(chunk, 0.1, random))
            yield drawn[-1]

    backpropagate(augmented(), halves, attended, Spill(io.BytesIO()))
    actual = gradients(halves)
    attended(halves.network(Normaliser(whole, CPU, torch.float32)(torch.cat(drawn)))).backward()
    assert worst_error(actual, gradients(halves)) < 1e-5


def test_the_given_backbone_is_not_modified() -> None:
    whole = backbone("resnet18")
    before = {name: value.clone() for name, value in whole.network.state_dict().items()}
    halves = Halves(replace(whole), "layer4", CPU, torch.float32)
    backpropagate([random_pixels(2)], halves, attended, Spill(io.BytesIO()))
    torch.optim.SGD(halves.parameters.values(), lr=1.0).step()
    assert all(torch.equal(value, before[name]) for name, value in whole.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in whole.network.parameters())
