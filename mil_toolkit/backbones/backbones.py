"""`BACKBONES`: build the network, load its weights, tell them apart by their digest, fold it for speed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from mil_toolkit.backbones.weights import (
    StateDict,
    check_file,
    load_weights,
    packaged_weights,
    read_checkpoint,
    timm_weights,
    torchvision_weights,
    weight_digest,
)
from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import shown

RANDOM_SEED = 0
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A network from normalised images (n, 3, S, S) to embeddings (n, width), in evaluation mode.

    mean, std: per channel of the pixels divided by 255; weight_digest: see `weight_digest`
    """

    network: nn.Module
    width: int
    mean: Triple
    std: Triple
    weight_digest: str


@dataclass(frozen=True)
class Architecture:
    """A network without its classifier and where its ImageNet weights come from.

    classifier: prefix of the tensors that a checkpoint may have beyond the network's own
    imagenet: returns these weights; raises UsageError where they cannot be had
    """

    network: nn.Module
    width: int
    mean: Triple
    std: Triple
    classifier: str
    imagenet: Callable[[], StateDict]


def _resnet(name: str) -> Architecture:
    network = getattr(torchvision.models, name)()
    width = network.fc.in_features
    network.fc = nn.Identity()
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    return Architecture(
        network, width, _IMAGENET_MEAN, _IMAGENET_STD, "fc.", lambda: torchvision_weights(url)
    )


def _efficientnet_lite0(name: str) -> Architecture:
    network = import_extra("timm", "offline", "This backbone").create_model(
        "tf_efficientnet_lite0", num_classes=0
    )
    half = (0.5, 0.5, 0.5)
    return Architecture(
        network, network.num_features, half, half, "classifier.", lambda: packaged_weights(network)
    )


def _timm(name: str) -> Architecture:
    timm, model = import_extra("timm", "timm", "This backbone"), name.removeprefix("timm:")
    if not timm.is_model(model.split(".")[0]):
        raise UsageError(f"--backbone {name}: timm has no model {model!r}.")
    network = timm.create_model(model, num_classes=0)
    config = network.pretrained_cfg
    return Architecture(
        network,
        network.num_features,
        tuple(config["mean"]),
        tuple(config["std"]),
        f"{config['classifier']}.",
        lambda: timm_weights(timm, model, config),
    )


BACKBONES: dict[str, Callable[[str], Architecture]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "efficientnet_lite0": _efficientnet_lite0,
    "timm:NAME": _timm,
}


def build_backbone(name: str, weights: str | StateDict) -> Backbone:
    """The backbone `name` with weights `imagenet`, `random` (seeded), those of a file, or these tensors.

    Raises UsageError for an unknown name, a missing extra and weights that cannot be downloaded; DataError for
    a file that is no checkpoint of this network, listing its missing and unexpected tensors.
    """
    kind = _kind(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        architecture = BACKBONES[kind](name)
    network = architecture.network.eval().requires_grad_(False)
    if weights != "random":
        state, origin = _state(name, weights, architecture)
        load_weights(network, state, architecture.classifier, origin)
    network_digest = weight_digest(network)
    return Backbone(network, architecture.width, architecture.mean, architecture.std, network_digest)


def _kind(name: str) -> str:
    kind = "timm:NAME" if name.startswith("timm:") else name
    if kind not in BACKBONES:
        raise UsageError(f"--backbone {name!r} is none of {', '.join(BACKBONES)}.")
    return kind


def check_backbone(name: str, weights: str) -> None:
    """Raise UsageError where no backbone has this name, or weights are to come from what is no checkpoint's file."""
    _kind(name)
    if weights not in ("imagenet", "random"):
        check_file(Path(weights))


def backbone_of(
    spec: Mapping[str, Any], weights: Path | None = None, trained: StateDict | None = None
) -> Backbone:
    """The backbone that made the features of a cache's spec.

    weights: its checkpoint, where its weights came from a file or cannot be downloaded; trained: its tensors
    Raises UsageError where a file is needed and not given, and for features that were imported; DataError for a
    network with other weights or another normalisation.
    """
    if spec["weight_digest"] is None:
        raise UsageError(
            f"These features were imported ({spec['backbone']}, {spec['weights']}): only their own tool has the backbone."
            " Embed images with it, and name the folder of mil-cache import by --features."
        )
    if weights is None and trained is None and spec["weights"] == "file":
        raise UsageError(
            "The weights of the backbone came from a file: name it with --weights PATH. Its tensors have the digest"
            f" {spec['weight_digest'][:8]}..."
        )
    backbone = build_backbone(spec["backbone"], trained or str(weights or spec["weights"]))
    found = {
        "weight_digest": backbone.weight_digest,
        "width": backbone.width,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
    }
    problems = [
        f"{name}: {found[name]!r} instead of {spec[name]!r}." for name in found if found[name] != spec[name]
    ]
    if problems:
        raise DataError([f"This {spec['backbone']} is not the network that made the features:", *problems])
    return backbone


def _state(name: str, weights: str | StateDict, architecture: Architecture) -> tuple[StateDict, str]:
    """The tensors to load, and what an error calls them."""
    if not isinstance(weights, str):
        return weights, "the trained backbone"
    if weights == "imagenet":
        return architecture.imagenet(), f"{name} {weights}"
    return read_checkpoint(Path(weights)), shown(weights)
