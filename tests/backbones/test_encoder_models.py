"""Encoders from files in the exact forms of their authors, against timm's own loading."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.encoder_files import (
    dinobloom_file,
    facebook_state,
    lightning_file,
    randomised,
    transformers_state,
)
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import Backbone, backbone_of, build_backbone, preprocessing_of
from mil_toolkit.backbones.encoders import ENCODERS
from mil_toolkit.backbones.identity import Preprocessing
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.config.extraction import Sampling
from mil_toolkit.core.errors import DataError, UsageError

timm = pytest.importorskip("timm")
DEPTH = 1  # blocks of the networks here, which makes them quick to build
SLIM = {"embed_dim": 96, "num_heads": 3}  # instead of large and giant ones


@pytest.fixture(autouse=True)
def _shallow_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, encoder in ENCODERS.items():
        slim = SLIM if encoder.model.startswith(("vit_large", "vit_giant")) else {}
        options = {**encoder.options, **slim, "depth": DEPTH}
        monkeypatch.setitem(ENCODERS, name, replace(encoder, options=options))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, timeout: float) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


def network_of(model: str, side: int = 224, **options: object) -> nn.Module:
    """A network of timm with one block and random values everywhere."""
    return randomised(timm.create_model(model, num_classes=0, img_size=side, depth=DEPTH, **options))


def images(side: int = 224) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def check_equal(backbone: Backbone, network: nn.Module, side: int = 224) -> None:
    with torch.inference_mode():
        actual, expected = backbone.network(images(side)), network(images(side))
    assert actual.shape == (2, backbone.width)
    assert expected.std() > 1e-3
    assert torch.allclose(actual, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


SMALL = "vit_small_patch14_dinov2"
DINO_HEADS = {"dino_head": 3, "ibot_head": 1, "mask_token": 1}
FORMS: dict[str, tuple[Callable[[nn.Module], object], Reading | None]] = {
    "DinoBloom-S.pth": (dinobloom_file, Reading(("teacher",), "backbone.", DINO_HEADS)),
    "pytorch_model_s.bin": (facebook_state, Reading(dropped={"mask_token": 1})),
    "timm.safetensors": (lambda network: network.state_dict(), None),
    "model.pt": (lambda network: {"model": network.state_dict(), "epoch": 1}, Reading(("model",))),
    "ema.pth": (lambda network: {"ema": network.state_dict(), "model": {}}, Reading(("ema",))),
    "student.pth": (lambda network: {"student": network.state_dict()}, Reading(("student",))),
    "epoch.ckpt": (
        lightning_file,
        Reading(("state_dict",), "model.encoder.", {"criterion": 1, "model": 1}),
    ),
    "transformers.safetensors": (transformers_state, Reading(dropped={"mask_token": 1})),
    "parallel.pth": (
        lambda network: {f"module._orig_mod.{k}": v for k, v in facebook_state(network).items()},
        Reading(prefix="module._orig_mod.", dropped={"mask_token": 1}),
    ),
}


def write(path: Path, content: object) -> str:
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        safetensors.torch.save_file({k: v.contiguous().clone() for k, v in content.items()}, path)
    else:
        torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_small_encoder_is_read_in_every_form(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The embeddings are those of the network; what was taken off and left out is said once."""
    make, reading = FORMS[form]
    network = network_of(SMALL)
    path = write(tmp_path / form, make(network))
    with caplog.at_level(logging.INFO, "mil_toolkit"):
        backbone = build_backbone("dinobloom-s", path)
    check_equal(backbone, network)
    assert backbone.reading == reading
    said = [record.message for record in caplog.records if record.message.startswith(path)]
    assert said == ([] if reading is None else [f"{path}: {reading.says}."])
    assert backbone.identity.preprocessing == Preprocessing(224, Sampling())
    assert backbone.mean == (0.485, 0.456, 0.406) and backbone.std == (0.229, 0.224, 0.225)


def test_the_steps_are_those_of_the_authors(tmp_path: Path) -> None:
    """As huggingface/to_hub.ipynb of RedDino loads {"teacher": ...} into timm."""
    file = dinobloom_file(network_of(SMALL))
    state = {
        name.replace("backbone.", ""): tensor
        for name, tensor in file["teacher"].items()
        if "dino_head" not in name and "ibot_head" not in name and "mask_token" not in name
    }
    network = timm.create_model(SMALL, num_classes=0, depth=DEPTH).eval()
    network.pos_embed = nn.Parameter(torch.zeros(1, 257, 384))
    network.patch_embed = timm.layers.PatchEmbed(224, 14, 3, 384)
    network.load_state_dict(state, strict=True)
    check_equal(build_backbone("reddino-s", write(tmp_path / "RedDino_s.pth", file)), network)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("timm:vit_small_patch14_reg4_dinov2", "vit_small_patch14_reg4_dinov2"),
        ("timm:vit_small_patch14_dinov2", SMALL),
    ],
)
@pytest.mark.parametrize("side", [518, 224])
def test_facebooks_files_equal_timms_own_loading(
    tmp_path: Path, name: str, model: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With register tokens and without, at their own size and resampled for another."""
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *args, **options: create(*args, **options, depth=DEPTH))
    path = write(tmp_path / "dinov2_pretrain.pth", facebook_state(randomised(create(model, 0, depth=DEPTH))))
    expected = create(
        model,
        pretrained=True,
        pretrained_cfg_overlay={"file": path, "hf_hub_id": None, "url": None},
        num_classes=0,
        img_size=side,
        depth=DEPTH,
    ).eval()
    backbone = build_backbone(name, path, side)
    check_equal(backbone, expected, side)
    assert backbone.reading.resampled == (() if side == 518 else ("pos_embed",))
    assert backbone.reading.dropped == {"mask_token": 1}


def test_the_files_of_the_giant_have_another_layout(tmp_path: Path) -> None:
    """SwiGLU, whose two products have other names at Facebook's."""
    network = network_of("vit_giant_patch14_dinov2", **SLIM)
    path = write(tmp_path / "DinoBloom-G.pth", dinobloom_file(network))
    assert "backbone.blocks.0.mlp.w12.weight" in torch.load(path)["teacher"]
    check_equal(build_backbone("dinobloom-g", path), network)


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("uni", "vit_large_patch16_224", {"init_values": 1e-5}),
        ("h-optimus-0", "vit_giant_patch14_reg4_dinov2", {}),
        ("phikon-v2", "vit_large_patch14_dinov2", {"patch_size": 16}),
    ],
)
def test_encoders_of_tissue_are_read_from_a_carried_file(
    tmp_path: Path, name: str, model: str, options: dict[str, object]
) -> None:
    network = network_of(model, **options, **SLIM)
    path = write(tmp_path / "pytorch_model.bin", network.state_dict())
    backbone = build_backbone(name, path)
    check_equal(backbone, network)
    assert backbone.sampling == ENCODERS[name].sampling and backbone.mean == ENCODERS[name].mean
    same = build_backbone(f"timm:hf-hub:{ENCODERS[name].repository}", path)
    assert same.identity == backbone.identity


def test_virchow_joins_the_class_token_and_the_mean_of_the_patches(tmp_path: Path) -> None:
    """Of Virchow2 the four register tokens do not count as patches."""
    for name, tokens in (("virchow", 1), ("virchow2", 5)):
        options = {key: value for key, value in ENCODERS[name].options.items() if key != "depth"}
        network = network_of("vit_giant_patch14_dinov2", **options)
        backbone = build_backbone(name, write(tmp_path / name, network.state_dict()))
        with torch.inference_mode():
            features = network.forward_features(images())
            expected = torch.cat([features[:, 0], features[:, tokens:].mean(1)], 1)
            assert torch.allclose(backbone.network(images()), expected, atol=1e-5)
        assert backbone.width == 2 * SLIM["embed_dim"]


def test_an_encoder_is_built_for_larger_images(tmp_path: Path) -> None:
    """Its position embeddings are resampled as timm does; the same file at the size of its own is not."""
    network = network_of(SMALL)
    path = write(tmp_path / "DinoBloom-S.pth", dinobloom_file(network))
    larger = build_backbone("dinobloom-s", path, 280)
    assert larger.reading.resampled == ("pos_embed",) and larger.image_size == 280
    position = larger.network.state_dict()["pos_embed"]
    resample = timm.layers.resample_abs_pos_embed
    assert torch.equal(position, resample(network.state_dict()["pos_embed"], [20, 20], num_prefix_tokens=1))


def test_a_checkpoint_of_another_encoder_gets_ten_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "DinoBloom-S.pth", dinobloom_file(network_of(SMALL)))
    with pytest.raises(DataError) as caught:
        build_backbone("dinobloom-b", path)
    assert len(caught.value.problems) <= 11
    assert "blocks.0.attn.proj.bias: (384,) instead of (768,)" in caught.value.problems


def test_kernels_of_another_size_are_not_resampled(tmp_path: Path) -> None:
    """timm would; but a network with other patches was not trained on these."""
    path = write(tmp_path / "a.pth", network_of(SMALL).state_dict())
    with pytest.raises(DataError, match=r"patch_embed.proj.weight: \(384, 3, 14, 14\) instead of"):
        build_backbone("timm:vit_small_patch16_224", path)


@pytest.mark.parametrize("name", ["dinobloom-b", "reddino-l", "uni"])
@pytest.mark.parametrize("word", ["imagenet", "pretrained"])
def test_published_weights_without_internet_are_an_error_with_advice(name: str, word: str) -> None:
    """Before the network is built. It says what to carry, and for gated ones how to get access."""
    with pytest.raises(UsageError) as caught:
        build_backbone(name, word)
    message, encoder = str(caught.value), ENCODERS[name]
    assert f"Download {encoder.file} from https://huggingface.co/{encoder.repository}" in message
    assert "--weights PATH" in message and ("HF_TOKEN" in message) == encoder.gated
    assert (encoder.also or "") in message and "\n" not in message


def test_published_weights_in_the_hubs_cache_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(SMALL)
    folder = tmp_path / "models--MarrLab--DinoBloom" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    path = write(folder / "pytorch_model_s.bin", facebook_state(network))
    asked = []

    def cached(repository: str, file: str, *_: object) -> str | None:
        asked.append((repository, file))
        return path

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    backbone = build_backbone("dinobloom-s", "pretrained")
    check_equal(backbone, network)
    assert {*asked} == {("MarrLab/DinoBloom", "pytorch_model_s.bin")}
    assert [str(file) for file in backbone.files] == [path]
    spec = {"backbone": "dinobloom-s", "weights": "pretrained", "image_size": 224, "width": 384, "seed": None}
    spec |= {"weight_digest": backbone.weight_digest, "mean": [*backbone.mean], "std": [*backbone.std]}
    assert backbone_of(spec).identity == backbone.identity


CONFIG = {
    "architecture": SMALL,
    "num_classes": 0,
    "model_args": {"depth": DEPTH},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "classifier": "head",
        "license": "cc-by-nc-4.0",
        "url": "http://example.org/x.pth",
        "an unknown key": 1,
    },
}
HUB = "timm:hf-hub:org/net"


def test_a_carried_repository_is_built_from_the_config_beside_its_weights(tmp_path: Path) -> None:
    network = network_of(SMALL)
    path = write(tmp_path / "model.safetensors", network.state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    backbone = build_backbone(HUB, path)
    check_equal(backbone, network)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.identity.preprocessing == Preprocessing(224, Sampling("bicubic", "centre", 0.9))
    assert preprocessing_of(HUB, path) == backbone.identity.preprocessing
    assert [file.name for file in backbone.files] == ["model.safetensors", "config.json"]
    assert build_backbone(HUB, path, 280).reading.resampled == ("pos_embed",)


def test_a_repository_without_internet_says_what_to_carry(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", network_of(SMALL).state_dict())
    for weights in ("pretrained", path):
        with pytest.raises(UsageError) as caught:
            build_backbone(HUB, weights)
        for part in ("config.json", "https://huggingface.co/org/net", "--weights PATH"):
            assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": None}, "expected the key 'architecture'"),
        ({"architecture": "no_such_net"}, "got 'no_such_net'"),
        ({"architecture": 3}, "got 3"),
        ({"model_args": {"no_such_option": 1}}, "no_such_option"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "pretrained"),
        ({"model_args": [1]}, "does not describe a model"),
        ({"pretrained_cfg": 7}, "does not describe a model"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "does not describe a model"),
        ({"pretrained_cfg": {"mean": 0.5}}, "does not describe a model"),
    ],
)
def test_a_config_that_does_not_describe_a_model_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(DataError, match=message) as caught:
        build_backbone(HUB, path)
    assert str(tmp_path / "config.json") in str(caught.value) and "\n" not in str(caught.value)


def test_statistics_that_may_not_be_those_of_the_weights_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DINO's weights have ImageNet's mean; the network under timm's default weights has another."""
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    dino = write(tmp_path / "dino.pth", {"teacher": {f"backbone.{k}": v for k, v in state.items()}})
    plain = write(tmp_path / "plain.pth", state)
    build_backbone("timm:vit_tiny_patch16_224", dino)
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "normalises images with mean (0.5, 0.5, 0.5)" in warning
    assert "The file looks like one of DINO" in warning
    caplog.clear()
    build_backbone("timm:vit_tiny_patch16_224", plain)
    build_backbone("timm:vit_tiny_patch16_224", "random")
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_other_weights_of_the_same_network_with_other_statistics_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    path = write(tmp_path / "plain.pth", state)
    build_backbone("timm:vit_small_patch16_224", path)
    assert "vit_small_patch16_224.dino" in caplog.text
    caplog.clear()
    build_backbone("timm:vit_small_patch16_224.dino", path)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
