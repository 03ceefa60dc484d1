"""`build_backbone`: build a network of `BACKBONES`, of `ENCODERS` or of a hub, and load its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from mil_toolkit.backbones.architecture import Architecture, Checkpoint, StateDict, for_images
from mil_toolkit.backbones.checkpoint import read_wrapped
from mil_toolkit.backbones.encoder_models import (
    check_published,
    encoder_architecture,
    hub_architecture,
)
from mil_toolkit.backbones.encoders import IMAGENET_MEAN, IMAGENET_STD
from mil_toolkit.backbones.identity import IMAGE_SIZE, BackboneIdentity, Preprocessing, Triple
from mil_toolkit.backbones.layout import fit
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.backbones.requests import (
    HUB_NAME,
    backbone_kind,
    check_available,
    check_identity,
    encoder_of,
)
from mil_toolkit.backbones.spec import RANDOM_SEED, SizedBackboneSpec
from mil_toolkit.backbones.timm_models import timm_architecture
from mil_toolkit.backbones.weights import (
    load_weights,
    logger,
    own_state,
    packaged_file,
    packaged_weights,
    torchvision_file,
    torchvision_weights,
    weight_digest,
)
from mil_toolkit.config.extraction import SQUASHED, WEIGHT_WORDS, Sampling
from mil_toolkit.core.errors import import_extra
from mil_toolkit.core.text import printable


@dataclass(frozen=True)
class Backbone:
    """A network from normalised images (n, 3, S, S) to embeddings (n, width), in evaluation mode.

    mean, std: per channel of the pixels divided by 255; weight_digest: see `weight_digest`
    files: that the weights came from, if any; None if they are unknown
    image_size, sampling: see `BackboneIdentity`
    reading: how a checkpoint was read; None for random weights
    """

    network: nn.Module
    width: int
    mean: Triple
    std: Triple
    weight_digest: str
    files: tuple[Path, ...] | None = None
    image_size: int = IMAGE_SIZE
    sampling: Sampling = SQUASHED
    reading: Reading | None = None

    @property
    def identity(self) -> BackboneIdentity:
        """The part of a cache's spec that describes the network."""
        return BackboneIdentity(
            self.weight_digest, self.width, self.mean, self.std, self.image_size, self.sampling
        )


def _resnet(name: str) -> Architecture:
    network = getattr(torchvision.models, name)()
    network.fc = nn.Identity()
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    return Architecture(
        network,
        IMAGENET_MEAN,
        IMAGENET_STD,
        lambda: ("fc.",),
        lambda: Checkpoint(torchvision_weights(url)),
        published_files=lambda: [torchvision_file(url)],
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
        lambda: Checkpoint(packaged_weights(network)),
        published_files=lambda: [packaged_file()],
    )


BACKBONES: dict[str, Callable[[str], Architecture]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "efficientnet_lite0": _efficientnet_lite0,
    "timm:NAME": timm_architecture,
}


def build_backbone(name: str, weights: str | StateDict, image_size: int | None = None) -> Backbone:
    """Build the backbone `name` for images of side `image_size`, and load its weights.

    weights: `imagenet` or `pretrained` (those that the authors published), `random` (seeded with
        RANDOM_SEED), the path of a checkpoint, or the tensors themselves
    image_size: None for the size that the network was made for

    A model of timm that was made for images of another size is built for this size if that is possible, and
    its weights are resampled as timm does. A log line says what of a checkpoint was taken off, left out or
    resampled.

    Raises UsageError for an unknown name, a missing extra, images of a size that the network cannot take, a
    network whose outputs are not embeddings, and weights that cannot be downloaded; DataError for a file that
    is not a checkpoint of this network, listing its missing and unexpected tensors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        built = for_images(lambda: _architecture(name, weights, image_size), name, image_size)
    architecture = built.architecture
    network = architecture.network.eval().requires_grad_(False)
    reading = None if weights == "random" else _load(name, weights, architecture)
    return Backbone(
        network,
        built.width,
        architecture.mean,
        architecture.std,
        weight_digest(network),
        _files(weights, architecture),
        built.side,
        architecture.sampling,
        reading,
    )


def _architecture(name: str, weights: str | StateDict, image_size: int | None) -> Architecture:
    """Return the architecture of a name; raises UsageError if there is none."""
    kind = backbone_kind(name)
    if encoder := encoder_of(name):
        if weights in WEIGHT_WORDS and weights != "random":
            check_published(name, encoder)
        return encoder_architecture(name, encoder, image_size)
    if kind == HUB_NAME:
        carried = isinstance(weights, str) and weights not in WEIGHT_WORDS
        return hub_architecture(name, image_size, Path(str(weights)) if carried else None)
    return BACKBONES[kind](name)


def preprocessing_of(name: str, weights: str) -> Preprocessing:
    """Return how images are prepared for a backbone; the errors are those of `build_backbone`."""
    if encoder := encoder_of(name):
        return Preprocessing(encoder.size, encoder.sampling)
    if name in BACKBONES:
        return Preprocessing()
    with torch.device("meta"):  # nothing is computed
        architecture = _architecture(name, weights, None)
    return Preprocessing(architecture.side or IMAGE_SIZE, architecture.sampling)


def _load(name: str, weights: str | StateDict, architecture: Architecture) -> Reading | None:
    """Load weights into the network, and say how a checkpoint was read.

    Returns the same; None if its tensors were used as they are, or if they are those of `BACKBONES`.
    """
    checkpoint, origin = _checkpoint(name, weights, architecture)
    network = architecture.network
    fitted = fit(
        checkpoint.tensors,
        own_state(network),
        architecture.classifier(),
        architecture.adapted,
        checkpoint.wrappers,
    )
    load_weights(network, fitted.tensors, (), origin)
    published = weights in WEIGHT_WORDS and name in BACKBONES
    if not isinstance(weights, str) or published:
        return None
    if weights not in WEIGHT_WORDS and (doubt := architecture.statistics_doubt(fitted.reading)):
        logger.warning("%s: %s", origin, doubt)
    if not fitted.reading.says:
        return None
    logger.info("%s: %s.", origin, fitted.reading.says)
    return fitted.reading


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


def _files(weights: str | StateDict, architecture: Architecture) -> tuple[Path, ...] | None:
    """Return the files that decide about the network and its weights; None if they are unknown."""
    if not isinstance(weights, str):
        return None
    files: Sequence[Path] | None = [Path(weights)]
    if weights in WEIGHT_WORDS:
        files = [] if weights == "random" else architecture.published_files()
    return None if files is None else (*files, *architecture.config_files)


def _checkpoint(name: str, weights: str | StateDict, architecture: Architecture) -> tuple[Checkpoint, str]:
    """Return the tensors to load, and what to call them in an error."""
    if not isinstance(weights, str):
        return Checkpoint(weights), "the trained backbone"
    if weights in WEIGHT_WORDS:
        return architecture.published(), f"{name} {weights}"
    return read_wrapped(Path(weights)), printable(weights)
