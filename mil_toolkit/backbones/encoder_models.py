"""The networks of `ENCODERS` and of repositories of the Hugging Face hub, built by timm."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.architecture import MISFITS, Architecture, Checkpoint
from mil_toolkit.backbones.checkpoint import read_wrapped
from mil_toolkit.backbones.encoders import HUB, Encoder
from mil_toolkit.backbones.hub import CONFIG, PICKLE, SAFETENSORS, cached_files, fetch, one_line
from mil_toolkit.backbones.requests import HUB_PREFIX
from mil_toolkit.backbones.timm_models import adapted, classifier_names, sampling_of_config
from mil_toolkit.backbones.weights import OFFLINE
from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import read_json
from mil_toolkit.core.text import printable

# What timm needs to know of a configuration; the rest could name files.
_CONFIGURED = (
    "input_size",
    "fixed_input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "num_classes",
    "pool_size",
    "first_conv",
    "classifier",
)
_ACCESS = (
    " Its authors grant access on request: ask for it on that page, then log in with 'hf auth login' or set"
    " HF_TOKEN."
)


class _PublishedWeights(NamedTuple):
    """Where the weights of a repository are.

    name: of the backbone; files: the first of them that the repository has; also: where else they are
    """

    name: str
    repository: str
    files: tuple[str, ...] = (SAFETENSORS, PICKLE)
    also: str | None = None
    gated: bool = False

    def fetched(self) -> Path:
        """Return the file; raises UsageError if it is not available."""
        try:
            return fetch(self.repository, *self.files)
        except Exception as error:  # noqa: BLE001 - the hub's client passes on those of several transports
            elsewhere = f" or {self.also}" if self.also else ""
            raise UsageError(
                f"The weights of {self.name} are not available: {one_line(error)}. Download"
                f" {' or '.join(self.files)} from {HUB}/{self.repository}{elsewhere} and name it with"
                f" --weights PATH.{_ACCESS if self.gated else ''} {OFFLINE}"
            ) from None

    def read(self) -> Checkpoint:
        """Return the tensors; raises as `fetched` and `read_wrapped` do."""
        return read_wrapped(self.fetched())

    def cached(self) -> list[Path] | None:
        """Return the files that decide which weights are read; None if they are not in the cache."""
        return cached_files(self.repository, *self.files)


def _weights_of(name: str, encoder: Encoder) -> _PublishedWeights:
    return _PublishedWeights(name, encoder.repository, (encoder.file,), encoder.also, encoder.gated)


class ClassAndPatchMean(nn.Module):
    """Joins the class token and the mean of the tokens of the patches: (n, T, D) -> (n, 2 D).

    prefix: number of tokens before those of the patches, the class token included
    """

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """Join the two."""
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], 1)


def encoder_architecture(name: str, encoder: Encoder, side: int | None = None) -> Architecture:
    """Return the architecture of an encoder, for images of side `side` or of its own size.

    Raises UsageError if the network cannot be built for this size.
    """
    side = side or encoder.size
    network, published = _encoder_network(name, encoder, side), _weights_of(name, encoder)
    return Architecture(
        network,
        encoder.mean,
        encoder.std,
        lambda: (),
        published.read,
        encoder.size,
        encoder.sampling,
        adapted=lambda state: adapted(state, network),
        published_files=published.cached,
    )


def hub_architecture(name: str, side: int | None = None, weights: Path | None = None) -> Architecture:
    """Return the architecture of `timm:hf-hub:ORG/NAME`, which the repository's config.json describes.

    side: as for `encoder_architecture`
    weights: a checkpoint, beside which config.json may lie

    Raises UsageError if config.json is not available, DataError if it does not describe a model of timm.
    """
    timm, repository = import_extra("timm", "timm", "This backbone"), name.removeprefix(HUB_PREFIX)
    path = _config_file(name, repository, weights)
    config = read_json(path)
    network, statistics, options = _configured(timm, config, path, side)
    published = _PublishedWeights(name, repository)
    return Architecture(
        network,
        tuple(statistics["mean"]),
        tuple(statistics["std"]),
        lambda: classifier_names(
            timm, config["architecture"], network, statistics["classifier"] or (), **options
        ),
        published.read,
        statistics["input_size"][-1],
        sampling_of_config(statistics),
        lambda other: hub_architecture(name, other, weights),
        lambda state: adapted(state, network),
        published.cached,
        [path],
    )


def _encoder_network(name: str, encoder: Encoder, side: int) -> nn.Module:
    timm = import_extra("timm", "timm", "This backbone")
    joins = encoder.output == "class token and mean of patches"
    options = {**encoder.options, **({"global_pool": ""} if joins else {})}
    network: nn.Module = timm.create_model(encoder.model, num_classes=0, img_size=side, **options)
    patch, prefix = _tokens(network)
    if side % patch:
        raise UsageError(
            f"--backbone {name} cannot take images of {side} x {side} pixels: its patches have"
            f" {patch} x {patch}. Use --image-size {encoder.size} or another multiple of {patch}."
        )
    if joins:
        network.head = ClassAndPatchMean(prefix)
    return network


def _tokens(network: Any) -> tuple[int, int]:
    """Return the side of a patch in pixels, and the number of tokens before those of the patches.

    network: a VisionTransformer of timm, whose types are not declared
    """
    return network.patch_embed.patch_size[0], network.num_prefix_tokens


def check_published(name: str, encoder: Encoder) -> None:
    """Raise UsageError if the published weights of an encoder are not available.

    Building a large network takes a minute, which would be lost.
    """
    _weights_of(name, encoder).fetched()


def _config_file(name: str, repository: str, weights: Path | None) -> Path:
    """Return the config.json of a repository: beside a carried checkpoint, from the cache or downloaded."""
    beside = weights.with_name(CONFIG) if weights else None
    if beside is not None and beside.is_file():
        return beside
    try:
        return fetch(repository, CONFIG)
    except Exception as error:  # noqa: BLE001 - the hub's client passes on those of several transports
        raise UsageError(
            f"--backbone {name}: its {CONFIG} is not available: {one_line(error)}. Download {CONFIG} and"
            f" {SAFETENSORS} or {PICKLE} from {HUB}/{repository} into one folder and name the weights with"
            f" --weights PATH. {OFFLINE}"
        ) from None


def _configured(
    timm: ModuleType, config: object, path: Path, side: int | None
) -> tuple[nn.Module, Mapping[str, Any], dict[str, object]]:
    """Return the network that a config.json of timm describes, its statistics, and the options of the model.

    The statistics are timm's PretrainedCfg, a mapping with values of many types.
    """
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(architecture, str) or not timm.is_model(architecture):
        raise DataError(
            f"{printable(path)} does not describe a model of timm: expected the key 'architecture' with the"
            f" name of one, got {architecture!r}. timm {timm.__version__} may be too old for it."
        )
    stated = config.get("pretrained_cfg", config)
    try:
        options = {**config.get("model_args", {}), **({} if side is None else {"img_size": side})}
        statistics = {key: stated[key] for key in _CONFIGURED if key in stated}
        network = timm.create_model(
            architecture,
            pretrained=False,
            pretrained_cfg=statistics,
            checkpoint_path="",
            num_classes=0,
            **options,
        )
        values = network.pretrained_cfg
        assert len(values["mean"]) == len(values["std"]) == len(values["input_size"]) == 3
    except MISFITS as error:
        raise DataError(
            f"{printable(path)} does not describe a model of timm {timm.__version__}: {one_line(error)}."
        ) from None
    return network, values, options
