"""The networks of `ENCODERS` and of repositories of the Hugging Face hub, built by timm."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.architecture import MISFITS, Architecture, Checkpoint
from mil_toolkit.backbones.checkpoint import read_wrapped
from mil_toolkit.backbones.encoders import ENCODERS, HUB, Encoder
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


def encoder_architecture(name: str, side: int | None = None) -> Architecture:
    """Return the architecture of an encoder of the table, for images of side `side` or of its own size.

    Raises UsageError if the network cannot be built for this size.
    """
    return _table_architecture(name, ENCODERS[name], side)


def hub_architecture(name: str, side: int | None = None, weights: Path | None = None) -> Architecture:
    """Return the architecture of `timm:hf-hub:ORG/NAME`.

    side: as for `encoder_architecture`
    weights: a checkpoint, beside which the repository's config.json may lie

    A repository in the table is built as the table states; others by their config.json. Raises UsageError if
    it is not available, DataError if it does not describe a model of timm.
    """
    timm, repository = import_extra("timm", "timm", "This backbone"), name.removeprefix(HUB_PREFIX)
    for encoder in ENCODERS.values():
        if encoder.repository.casefold() == repository.partition("@")[0].casefold():
            return _table_architecture(name, encoder, side)
    path = _config_file(name, repository, weights)
    config = read_json(path)
    network, statistics, options = _configured(timm, config, path, side)
    return Architecture(
        network,
        tuple(statistics["mean"]),
        tuple(statistics["std"]),
        lambda: classifier_names(
            timm, config["architecture"], network, statistics["classifier"] or (), **options
        ),
        lambda: _published(name, repository, (SAFETENSORS, PICKLE), f"{HUB}/{repository}"),
        statistics["input_size"][-1],
        sampling_of_config(statistics),
        lambda other: hub_architecture(name, other, weights),
        lambda state: adapted(state, network),
        lambda: cached_files(repository, SAFETENSORS, PICKLE),
        [path],
    )


def _table_architecture(name: str, encoder: Encoder, side: int | None) -> Architecture:
    side = side or encoder.size
    network = _encoder_network(name, encoder, side)
    return Architecture(
        network,
        encoder.mean,
        encoder.std,
        lambda: (),
        lambda: _published(
            name, encoder.repository, (encoder.file,), encoder.page, encoder.also, encoder.gated
        ),
        encoder.size,
        encoder.sampling,
        adapted=lambda state: adapted(state, network),
        published_files=lambda: cached_files(encoder.repository, encoder.file),
    )


def _encoder_network(name: str, encoder: Encoder, side: int) -> nn.Module:
    timm = import_extra("timm", "timm", "This backbone")
    joins = encoder.output == "class token and mean of patches"
    options = {**encoder.options, **({"global_pool": ""} if joins else {})}
    network: nn.Module = timm.create_model(encoder.model, num_classes=0, img_size=side, **options)
    patch = network.get_submodule("patch_embed").patch_size[0]
    if side % patch:
        raise UsageError(
            f"--backbone {name} cannot take images of {side} x {side} pixels: its patches have"
            f" {patch} x {patch}. Use --image-size {encoder.size} or another multiple of {patch}."
        )
    if joins:
        network.head = ClassAndPatchMean(network.num_prefix_tokens)
    return network


def _published(
    name: str,
    repository: str,
    files: tuple[str, ...],
    page: str,
    also: str | None = None,
    gated: bool = False,
) -> Checkpoint:
    """Return the weights of a repository of the hub; raises UsageError if they are not available."""
    try:
        path = fetch(repository, *files)
    except Exception as error:  # noqa: BLE001 - the hub's client passes on those of several transports
        elsewhere = f" or {also}" if also else ""
        raise UsageError(
            f"The weights of {name} are not available: {one_line(error)}. Download {' or '.join(files)} from"
            f" {page}{elsewhere} and name it with --weights PATH.{_ACCESS if gated else ''} {OFFLINE}"
        ) from None
    return read_wrapped(path)


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
    options = {**config.get("model_args", {}), **({} if side is None else {"img_size": side})}
    stated = config.get("pretrained_cfg", config)
    try:
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
