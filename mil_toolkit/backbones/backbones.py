"""`BACKBONES`: the table of pretrained networks; `build_backbone` builds one and loads its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from mil_toolkit.backbones.architecture import Architecture, StateDict, for_images
from mil_toolkit.backbones.checkpoint import read_checkpoint
from mil_toolkit.backbones.identity import BackboneIdentity, Triple
from mil_toolkit.backbones.requests import backbone_kind, check_available, check_identity
from mil_toolkit.backbones.spec import RANDOM_SEED, SizedBackboneSpec
from mil_toolkit.backbones.timm_models import timm_architecture
from mil_toolkit.backbones.weights import (
    load_weights,
    packaged_file,
    packaged_weights,
    torchvision_file,
    torchvision_weights,
    weight_digest,
)
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.errors import import_extra
from mil_toolkit.core.text import printable

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network from normalised images (n, 3, S, S) to embeddings (n, width), in evaluation mode.

    mean, std: per channel of the pixels divided by 255; weight_digest: see `weight_digest`
    files: that the weights came from, if any; None if they are unknown
    """

    network: nn.Module
    width: int
    mean: Triple
    std: Triple
    weight_digest: str
    files: tuple[Path, ...] | None = None

    @property
    def identity(self) -> BackboneIdentity:
        """The part of a cache's spec that describes the network."""
        return BackboneIdentity(self.weight_digest, self.width, self.mean, self.std)


def _resnet(name: str) -> Architecture:
    network = getattr(torchvision.models, name)()
    network.fc = nn.Identity()
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    return Architecture(
        network,
        _IMAGENET_MEAN,
        _IMAGENET_STD,
        lambda: ("fc.",),
        lambda: torchvision_weights(url),
        imagenet_files=lambda: [torchvision_file(url)],
    )


def _efficientnet_lite0(name: str) -> Architecture:
    network = import_extra("timm", "offline", "This backbone").create_model(
        "tf_efficientnet_lite0", num_classes=0
    )
    half = (0.5, 0.5, 0.5)
    return Architecture(
        network,
        half,
        half,
        lambda: ("classifier.",),
        lambda: packaged_weights(network),
        imagenet_files=lambda: [packaged_file()],
    )


BACKBONES: dict[str, Callable[[str], Architecture]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "efficientnet_lite0": _efficientnet_lite0,
    "timm:NAME": timm_architecture,
}


def build_backbone(
    name: str, weights: str | StateDict, image_size: int = ExtractionConfig.image_size
) -> Backbone:
    """Build the backbone `name` for images of side `image_size`, and load its weights.

    weights: `imagenet`, `random` (seeded with RANDOM_SEED), the path of a checkpoint, or the tensors
        themselves

    A model of timm that was made for images of another size is built for this size if that is possible, and
    its weights are resampled as timm does.

    Raises UsageError for an unknown name, a missing extra, images of a size that the network cannot take, a
    network whose outputs are not embeddings, and weights that cannot be downloaded; DataError for a file that
    is not a checkpoint of this network, listing its missing and unexpected tensors.
    """
    kind = backbone_kind(name, BACKBONES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        architecture, width = for_images(lambda: BACKBONES[kind](name), name, image_size)
    network = architecture.network.eval().requires_grad_(False)
    if weights != "random":
        state, origin = _state(name, weights, architecture)
        load_weights(network, architecture.adapted(state), architecture.classifier(), origin)
    files = _files(weights, architecture)
    return Backbone(
        network,
        width,
        architecture.mean,
        architecture.std,
        weight_digest(network),
        None if files is None else tuple(files),
    )


def backbone_of(
    spec: SizedBackboneSpec, weights: Path | None = None, trained: StateDict | None = None
) -> Backbone:
    """Build the backbone that computed the features of a cache, given the cache's spec.

    weights: the backbone's checkpoint, needed if its weights came from a file or cannot be downloaded
    trained: the backbone's tensors, if it was fine-tuned

    Raises UsageError if a file is needed and not given, and for features that were imported; DataError if the
    network has other weights or another normalisation than the spec records.
    """
    check_available(spec, weights is not None or trained is not None)
    source = trained or str(weights or spec["weights"])
    backbone = build_backbone(spec["backbone"], source, spec["image_size"])
    check_identity(backbone.identity, spec)
    return backbone


def _files(weights: str | StateDict, architecture: Architecture) -> Sequence[Path] | None:
    """Return the files that decide about the weights; None if they are unknown."""
    if not isinstance(weights, str):
        return None
    if weights == "imagenet":
        return architecture.imagenet_files()
    return [] if weights == "random" else [Path(weights)]


def _state(name: str, weights: str | StateDict, architecture: Architecture) -> tuple[StateDict, str]:
    """Return the tensors to load, and what to call them in an error."""
    if not isinstance(weights, str):
        return weights, "the trained backbone"
    if weights == "imagenet":
        return architecture.imagenet(), f"{name} {weights}"
    return read_checkpoint(Path(weights)), printable(weights)
