"""The models of timm as backbones: their architectures, names of classifier tensors, and weights."""

import math
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from mil_toolkit.backbones.architecture import MISFITS, Architecture, Checkpoint, StateDict
from mil_toolkit.backbones.encoders import HUB, IMAGENET_MEAN, IMAGENET_STD
from mil_toolkit.backbones.hub import SAFETENSORS, cached_file, cached_files, check_online
from mil_toolkit.backbones.identity import Triple
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.backbones.weights import OFFLINE, own_state
from mil_toolkit.config.extraction import INTERPOLATION_NAMES, Sampling
from mil_toolkit.core.errors import UsageError, import_extra
from mil_toolkit.core.text import some

_RENAMING = ("timm.models.vision_transformer", "timm.models.eva")  # by names, not by their order
_DINO = ("teacher", "student", "dino_head", "ibot_head", "mask_token")  # left by self-distillation


class Normalisation(Protocol):
    """The statistics in timm's configuration of weights."""

    mean: Triple
    std: Triple


def timm_architecture(name: str, side: int | None = None) -> Architecture:
    """Return the architecture of `timm:MODEL` without its classifier.

    side: of the images to build it for, if not the one that the model was made for

    Raises UsageError for a model or a pretrained tag that timm does not have.
    """
    timm, model = import_extra("timm", "timm", "This backbone"), name.removeprefix("timm:")
    _check_name(timm, name, model)
    size = {} if side is None else {"img_size": side}
    network = timm.create_model(model, num_classes=0, **size)
    config = network.pretrained_cfg
    return Architecture(
        network,
        tuple(config["mean"]),
        tuple(config["std"]),
        lambda: classifier_names(timm, model, network, config["classifier"] or ()),
        lambda: Checkpoint(timm_weights(timm, model, config.get("hf_hub_id"), size)),
        config["input_size"][-1],
        sampling_of_config(config),
        lambda other: timm_architecture(name, other),
        lambda state: adapted(state, network),
        lambda: cached_files(config.get("hf_hub_id"), SAFETENSORS),
        statistics_doubt=lambda reading: _statistics_doubt(timm, model, config, reading),
    )


def _check_name(timm: ModuleType, name: str, model: str) -> None:
    base, _, tag = model.partition(".")
    if not timm.is_model(base):
        raise UsageError(f"--backbone {name}: timm has no model {model!r}.")
    known = timm.list_models(f"{base}.*", pretrained=True)
    if tag and model not in known:
        choices = some(known) if known else base
        raise UsageError(f"--backbone {name}: timm has no weights {tag!r} of {base}. Choose {choices}.")


def sampling_of_config(config: Mapping[str, Any]) -> Sampling:
    """Return how timm resizes images for a model with this configuration; others than its modes are centred.

    config: as in timm's PretrainedCfg, a mapping with values of many types
    """
    timm_data = import_extra("timm.data", "timm", "This backbone")
    resolved = timm_data.resolve_data_config(pretrained_cfg=config)
    interpolation = resolved["interpolation"]
    return Sampling(
        interpolation if interpolation in INTERPOLATION_NAMES else "bicubic",
        "squash" if resolved["crop_mode"] == "squash" else "centre",
        float(resolved["crop_pct"]),
    )


def classifier_names(
    timm: ModuleType, model: str, network: nn.Module, named: str | tuple[str, ...], **options: object
) -> tuple[str, ...]:
    """Return the beginnings of the names of the tensors that only the model with its classifier has.

    named: the classifier in timm's configuration; options: with which the model is built

    Some classifiers have layers beside those that timm's configuration names, such as the BatchNorm of LeViT.
    """
    prefixes = [f"{name}." for name in ((named,) if isinstance(named, str) else named)]
    with torch.device("meta"):  # names only: nothing is computed
        complete = timm.create_model(model, num_classes=2, **options).state_dict()
    return (*prefixes, *(complete.keys() - network.state_dict().keys()))


def adapted(state: StateDict, network: nn.Module) -> StateDict:
    """Rename and resample tensors as timm does when it loads weights into a network.

    Tensors that depend on the size of the images are resampled; kernels of another size are not, since they
    mean another network. A checkpoint that lacks tensors is returned as it is, unless timm renames its
    tensors by their names: for other networks timm would guess its origin.
    """
    own = own_state(network)
    module = sys.modules[type(network).__module__]
    adapt = getattr(module, "checkpoint_filter_fn", None)
    complete = own.keys() <= state.keys()
    if adapt is None or (complete and all(state[name].shape == own[name].shape for name in own)):
        return state
    if not complete and module.__name__ not in _RENAMING:
        return state
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the speed of timm's interpolation
            result: StateDict = adapt({name: state[name] for name in own} if complete else {**state}, network)
    except MISFITS:
        return state  # whose shapes are then listed
    if not own.keys() <= result.keys() or any(_is_other_kernel(name, state, result) for name in own):
        return state
    return {**state, **result} if complete else result


def _is_other_kernel(name: str, before: StateDict, after: StateDict) -> bool:
    if name not in before or not name.endswith(".weight"):
        return False
    shapes = before[name].shape, after[name].shape
    return all(len(shape) == 4 for shape in shapes) and shapes[0][2:] != shapes[1][2:]


def _statistics_doubt(
    timm: ModuleType, model: str, config: Mapping[str, Any], reading: Reading
) -> str | None:
    """Return why weights from a file may need other statistics than those of timm's configuration."""
    used = tuple(config["mean"]), tuple(config["std"])
    base, _, tag = model.partition(".")
    doubts = []
    looks_like_dino = not {*reading.wrappers, *reading.prefix.split("."), *reading.dropped}.isdisjoint(_DINO)
    if looks_like_dino and not _are_close(used, (IMAGENET_MEAN, IMAGENET_STD)):
        doubts.append(
            f"The file looks like one of DINO, which uses mean {IMAGENET_MEAN}, std {IMAGENET_STD}."
        )
    if not tag:
        others = [
            name for name in timm.list_models(f"{base}.*", pretrained=True) if _differs(timm, name, used)
        ]
        if others:
            doubts.append(f"timm has weights of this network with other statistics: {some(others)}.")
    if not doubts:
        return None
    return (
        f"timm:{model} normalises images with mean {used[0]} and std {used[1]}. {' '.join(doubts)} If the"
        " weights were trained with those, name an encoder or weights of timm that were, such as"
        f" timm:{base}.TAG."
    )


def _differs(timm: ModuleType, name: str, used: tuple[Triple, Triple]) -> bool:
    config: Normalisation = timm.models.get_pretrained_cfg(name)
    return not _are_close(used, (config.mean, config.std))


def _are_close(some_statistics: tuple[Triple, Triple], others: tuple[Triple, Triple]) -> bool:
    pairs = zip((*some_statistics[0], *some_statistics[1]), (*others[0], *others[1]), strict=True)
    return all(math.isclose(one, other, abs_tol=1e-3) for one, other in pairs)


def timm_weights(timm: ModuleType, model: str, repository: str | None, size: dict[str, int]) -> StateDict:
    """Return the pretrained weights of a timm model without its classifier.

    repository: of the weights on the Hugging Face hub, None if the model has none
    size: `img_size`, if the model is built for other images than it was made for

    Raises UsageError if they are neither in the hub's cache nor can be downloaded.
    """
    try:
        source = _cached_or_online(repository)
        network = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0, **size
        )
    except Exception as error:  # the hub's client passes on the exceptions of several transports
        raise UsageError(
            f"The weights of timm:{model} are not available: {error}. Download {SAFETENSORS} of {repository}"
            f" from {HUB} and name it with --weights PATH. {OFFLINE}"
        ) from error
    state: StateDict = network.state_dict()
    return state


def _cached_or_online(repository: str | None) -> dict[str, str]:
    """Return the setting that makes timm read the hub's cached file; empty if timm has to download the file.

    Raises OSError at once if the file is not cached and the hub cannot be reached.
    """
    cached = cached_file(repository, SAFETENSORS)
    if cached is not None:
        return {"file": str(cached)}
    check_online()
    return {}
