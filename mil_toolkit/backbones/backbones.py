"""`BACKBONES`: the table of pretrained networks; `build_backbone` builds one and loads its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from mil_toolkit.backbones.spec import RANDOM_SEED, BackboneSpec
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
from mil_toolkit.core.text import printable

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
    """A network without its classifier, and where to get its ImageNet weights.

    classifier: prefix of the classifier's tensors, which a checkpoint may contain in addition
    imagenet: returns the ImageNet weights; raises UsageError if they cannot be obtained
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
        lambda: timm_weights(timm, model, config.get("hf_hub_id")),
    )


BACKBONES: dict[str, Callable[[str], Architecture]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "efficientnet_lite0": _efficientnet_lite0,
    "timm:NAME": _timm,
}


def build_backbone(name: str, weights: str | StateDict) -> Backbone:
    """Build the backbone `name` and load its weights.

    weights: `imagenet`, `random` (seeded with RANDOM_SEED), the path of a checkpoint, or the tensors
        themselves

    Raises UsageError for an unknown name, a missing extra and weights that cannot be downloaded; DataError
    for a file that is not a checkpoint of this network, listing its missing and unexpected tensors.
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
        raise UsageError(f"--backbone {name!r} is not one of {', '.join(BACKBONES)}.")
    return kind


def check_backbone(name: str, weights: str) -> None:
    """Raise UsageError for an unknown backbone, and unless `weights` is imagenet, random or a checkpoint."""
    _kind(name)
    if weights not in ("imagenet", "random"):
        check_file(Path(weights))


def backbone_of(
    spec: BackboneSpec, weights: Path | None = None, trained: StateDict | None = None
) -> Backbone:
    """Build the backbone that computed the features of a cache, given the cache's spec.

    weights: the backbone's checkpoint, needed if its weights came from a file or cannot be downloaded
    trained: the backbone's tensors, if it was fine-tuned

    Raises UsageError if a file is needed and not given, and for features that were imported; DataError if the
    network has other weights or another normalisation than the spec records.
    """
    if spec["weight_digest"] is None:
        raise UsageError(
            f"These features were imported ({spec['backbone']}, {spec['weights']}): only the tool that made"
            " them has the backbone. Embed the images with that tool, run mil-cache import, and name the"
            " resulting folder with --features."
        )
    if weights is None and trained is None and spec["weights"] == "file":
        raise UsageError(
            "The weights of the backbone came from a file: name it with --weights PATH. The digest of its"
            f" tensors begins with {spec['weight_digest'][:8]}."
        )
    backbone = build_backbone(spec["backbone"], trained or str(weights or spec["weights"]))
    problems = _differences(backbone, spec)
    if problems:
        raise DataError([f"This {spec['backbone']} is not the network that made the features:", *problems])
    return backbone


def _differences(backbone: Backbone, spec: BackboneSpec) -> list[str]:
    """Return one line for each value in which a backbone differs from the spec."""
    compared = (
        ("weight_digest", backbone.weight_digest, spec["weight_digest"]),
        ("width", backbone.width, spec["width"]),
        ("mean", list(backbone.mean), spec["mean"]),
        ("std", list(backbone.std), spec["std"]),
    )
    return [
        f"{name}: {actual!r} instead of {expected!r}."
        for name, actual, expected in compared
        if actual != expected
    ]


def _state(name: str, weights: str | StateDict, architecture: Architecture) -> tuple[StateDict, str]:
    """Return the tensors to load, and what to call them in an error."""
    if not isinstance(weights, str):
        return weights, "the trained backbone"
    if weights == "imagenet":
        return architecture.imagenet(), f"{name} {weights}"
    return read_checkpoint(Path(weights)), printable(weights)
