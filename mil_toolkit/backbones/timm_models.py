"""The models of timm as backbones: their architectures, names of classifier tensors, and weights."""

import importlib
import sys
import urllib.request
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from mil_toolkit.backbones.architecture import MISFITS, Architecture, StateDict
from mil_toolkit.backbones.weights import DOWNLOAD_TIMEOUT, OFFLINE
from mil_toolkit.core.errors import UsageError, import_extra
from mil_toolkit.core.text import some

_HUB = "https://huggingface.co"
_FILE = "model.safetensors"


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
        lambda: _classifier(timm, model, network, config["classifier"] or ()),
        lambda: timm_weights(timm, model, config.get("hf_hub_id"), size),
        config["input_size"][-1],
        lambda other: timm_architecture(name, other),
        lambda state: _resampled(state, network) if size else state,
        lambda: cached_files(config.get("hf_hub_id")),
    )


def _check_name(timm: ModuleType, name: str, model: str) -> None:
    base, _, tag = model.partition(".")
    if not timm.is_model(base):
        raise UsageError(f"--backbone {name}: timm has no model {model!r}.")
    known = timm.list_models(f"{base}.*", pretrained=True)
    if tag and model not in known:
        choices = some(known) if known else base
        raise UsageError(f"--backbone {name}: timm has no weights {tag!r} of {base}. Choose {choices}.")


def _classifier(
    timm: ModuleType, model: str, network: nn.Module, named: str | tuple[str, ...]
) -> tuple[str, ...]:
    """Return the beginnings of the names of the tensors that only the model with its classifier has.

    named: the classifier in timm's configuration

    Some classifiers have layers beside those that timm's configuration names, such as the BatchNorm of LeViT.
    """
    prefixes = [f"{name}." for name in ((named,) if isinstance(named, str) else named)]
    with torch.device("meta"):  # names only: nothing is computed
        complete = timm.create_model(model, num_classes=2).state_dict()
    return (*prefixes, *(complete.keys() - network.state_dict().keys()))


def _resampled(state: StateDict, network: nn.Module) -> StateDict:
    """Resample the tensors that depend on the size of the images, as timm does when it loads weights.

    A checkpoint that lacks tensors is returned as it is, since timm would guess its origin.
    """
    own = network.state_dict()
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if adapt is None or own.keys() - state.keys():
        return state
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the speed of timm's interpolation
            adapted: StateDict = adapt({name: state[name] for name in own}, network)
    except MISFITS:
        return state  # whose shapes are then listed
    return {**state, **adapted}


def timm_weights(timm: ModuleType, model: str, repository: str | None, size: dict[str, int]) -> StateDict:
    """Return the pretrained weights of a timm model without its classifier.

    repository: of the weights on the Hugging Face hub, None if the model has none
    size: `img_size`, if the model is built for other images than it was made for

    Raises UsageError if they are neither in the hub's cache nor can be downloaded.
    """
    try:
        source = _cached_or_online(repository, _FILE)
        network = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0, **size
        )
    except Exception as error:  # the hub's client passes on the exceptions of several transports
        raise UsageError(
            f"The weights of timm:{model} are not available: {error}. Download {_FILE} of {repository} from "
            f"{_HUB} and name it with --weights PATH. {OFFLINE}"
        ) from error
    state: StateDict = network.state_dict()
    return state


def cached_files(repository: str | None) -> list[Path] | None:
    """Return the files of the hub's cache that decide which weights of a repository are read.

    They are the weights and the name of their revision; None if the weights are not in the cache.
    """
    cached = _cached(repository, _FILE)
    if cached is None:
        return None
    return [cached, *cached.parents[2].glob("refs/main")]  # .../snapshots/REVISION/model.safetensors


def _cached(repository: str | None, file: str) -> Path | None:
    hub = importlib.import_module("huggingface_hub")
    cached = hub.try_to_load_from_cache(repository, file) if repository else None
    return Path(cached) if isinstance(cached, str) else None


def _cached_or_online(repository: str | None, file: str) -> dict[str, str]:
    """Return the setting that makes timm read the hub's cached file; empty if timm has to download the file.

    Otherwise the hub's client would ask for a newer version and, offline, retry for a minute before it uses
    its cached file. Raises OSError at once if the file is not cached and the hub cannot be reached.
    """
    cached = _cached(repository, file)
    if cached is not None:
        return {"file": str(cached)}
    urllib.request.urlopen(_HUB, timeout=DOWNLOAD_TIMEOUT).close()
    return {}
