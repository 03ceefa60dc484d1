"""ONNX export: onnxruntime gives the bundle's results for every pooling, backbone and number of images."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as state
from support.bundles import ABOUT, SCORES, about_spec
from support.commands import Command
from support.studies import Tiny
from timm.models import _efficientnet_builder
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.resnet import ResNet

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.onnx import export_onnx, publish_onnx
from mil_toolkit.config.head import POOLING_NAMES, HeadConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

pytestmark = pytest.mark.usefixtures("operators")

MakePatients = Callable[..., Patients]
BACKBONES = [
    "resnet34",
    "resnet50",
    "efficientnet_lite0",
    "timm:vit_tiny_patch16_224",
]  # mil-fit's has resnet18


def fitted(patients: Patients, **config: Any) -> FittedHead:
    small = {"hidden": 8, "metadata_hidden": 6, "components": 4, "zero_start": False}
    return refit(patients, HeadConfig(**small | config), epoch=2, member_count=3, seed=(3,))


def varied(make_patients: MakePatients) -> Patients:
    """Twelve patients with bags of 1 to 30 embeddings."""
    patients = make_patients()
    random = np.random.default_rng(1)
    sizes = [1, 2, 3, 4, 7, 8, 9, 12, 16, 17, 29, 30]
    bags = [torch.from_numpy(random.normal(size=(size, 6))).float() for size in sizes]
    packed = Bags.pack(bags, patients.ids, ["" for size in sizes for _ in range(size)])
    return Patients(packed, patients.labels, patients.metadata)


def run(path: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def check_parity(bundle: ModelBundle, patients: Patients, path: Path, bags: Sequence[Any], name: str) -> None:
    """Every patient's outputs are those of `ModelBundle.probabilities`, whatever the size of its bag."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probability, spread, attention = bundle.probabilities(patients)
    assert attention is not None and patients.bags is not None
    encoded = bundle.head.encoder.encode(patients.metadata).to_numpy(np.float32)
    ends = patients.bags.offsets[1:-1].numpy()
    for place, (bag, weights) in enumerate(zip(bags, np.split(attention, ends), strict=True)):
        found = session.run(None, {name: np.asarray(bag), "metadata": encoded[place]})
        np.testing.assert_allclose(found[0], [probability[place]], atol=2e-6)
        assert found[1] == [probability[place] >= bundle.decision.constants["threshold"]]
        np.testing.assert_allclose(found[2], [spread[place]], atol=2e-6)
        np.testing.assert_allclose(found[3], weights, atol=2e-6)


class Exported(NamedTuple):
    """A bundle, the patients that it was fitted on, and its heads as an ONNX file; tests only read them."""

    pooling: str
    bundle: ModelBundle
    patients: Patients
    path: Path


@pytest.fixture(scope="module", name="exported", params=POOLING_NAMES)
def _exported(
    request: pytest.FixtureRequest, make_patients: MakePatients, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """An export for each pooling."""
    patients, path = varied(make_patients), tmp_path_factory.mktemp("exported") / "head.onnx"
    bundle = ModelBundle(fitted(patients, pooling=request.param), ABOUT, SCORES)
    export_onnx(bundle, path)
    return Exported(request.param, bundle, patients, path)


def test_every_pooling_gives_the_same_results_in_onnx(exported: Exported) -> None:
    assert exported.patients.bags is not None
    bags = exported.patients.bags.instances.split(exported.patients.bags.sizes.tolist())
    check_parity(exported.bundle, exported.patients, exported.path, bags, "embeddings")


@pytest.mark.parametrize(
    "config",
    [
        {"components": 0, "standardise": False, "metadata_branch": "mlp", "fusion": "concat"},
        {"metadata_branch": "none"},
        {"instance_layers": 2, "instance_width": 6},
        {"instance_layers": 1, "instance_activation": "gelu", "pooling": "transformer", "components": 0},
        {"instance_layers": 1, "instance_width": 5, "pooling": "dsmil", "fusion": "concat"},
    ],
    ids=str,
)
def test_every_branch_gives_the_same_results_in_onnx(
    config: dict[str, Any], make_patients: MakePatients, tmp_path: Path
) -> None:
    patients = varied(make_patients)
    bundle = ModelBundle(fitted(patients, **config), ABOUT, SCORES)
    export_onnx(bundle, tmp_path / "head.onnx")
    assert patients.bags is not None
    bags = patients.bags.instances.split(patients.bags.sizes.tolist())
    check_parity(bundle, patients, tmp_path / "head.onnx", bags, "embeddings")


def test_an_absent_branch_has_no_input(make_patients: MakePatients, tmp_path: Path) -> None:
    patients = make_patients()
    alone = Patients(patients.bags, patients.labels, patients.metadata[[]])
    assert patients.bags is not None
    images = ModelBundle(fitted(alone), ABOUT, SCORES)
    export_onnx(images, tmp_path / "images.onnx")
    found = run(tmp_path / "images.onnx", embeddings=patients.bags.instances[:1].numpy())
    np.testing.assert_allclose(found["probability"], images.probabilities(alone)[0][:1], atol=2e-6)

    clinical = ModelBundle(fitted(make_patients(images=False)), ABOUT, SCORES)
    export_onnx(clinical, tmp_path / "clinical.onnx")
    row = clinical.head.encoder.encode(patients.metadata).to_numpy(np.float32)[5]
    found = run(tmp_path / "clinical.onnx", metadata=row)
    assert found.keys() == {"probability", "prediction", "spread"}
    np.testing.assert_allclose(found["probability"], clinical.probabilities(patients)[0][5:6], atol=2e-6)


@pytest.fixture(name="_shallow")
def _shallow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build one block where networks repeat equal blocks, each of which takes time to export."""
    make_layer, build = ResNet._make_layer, VisionTransformer.__init__
    scale = _efficientnet_builder._scale_stage_depth

    def make_one_block(network: Any, block: Any, planes: int, blocks: int, *rest: Any, **options: Any) -> Any:
        return make_layer(network, block, planes, 1, *rest, **options)

    def build_one_block(network: Any, *rest: Any, depth: int, **options: Any) -> None:
        build(network, *rest, depth=1, **options)

    def repeat_once(blocks: Any, repeats: Sequence[int], *rest: Any) -> Any:
        return scale(blocks, [1 for _ in repeats], *rest)

    monkeypatch.setattr(ResNet, "_make_layer", make_one_block)
    monkeypatch.setattr(_efficientnet_builder, "_scale_stage_depth", repeat_once)
    monkeypatch.setattr(VisionTransformer, "__init__", build_one_block)


@pytest.mark.usefixtures("_shallow")
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_the_same_results_in_onnx(
    name: str, make_patients: MakePatients, tmp_path: Path
) -> None:
    """From pixels to the probability, against the embeddings of `Embedder` in float32."""
    side = 224 if "vit" in name else 32
    backbone = build_backbone(name, "random")
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (size, side, side, 3), dtype=np.uint8) for size in (2, 1, 4, 3)]
    embedder = Embedder(backbone, torch.device("cpu"), torch.float32)
    patients = make_patients(4)
    embedded = [embedder(torch.from_numpy(each)) for each in pixels]
    bags = Bags.pack(embedded, patients.ids, [""] * 10)
    patients = Patients(bags, patients.labels, patients.metadata)
    spec = {
        "backbone": name,
        "weights": "random",
        "weight_digest": backbone.weight_digest,
        "width": backbone.width,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "image_size": side,
    }
    bundle = ModelBundle(fitted(patients, components=0), about_spec(**spec), SCORES)
    export_onnx(bundle, tmp_path / "whole.onnx", images=True)
    # An embedding between two float16 numbers may be rounded to either of them.
    probability, _, attention = bundle.probabilities(patients)
    encoded = bundle.head.encoder.encode(patients.metadata).to_numpy(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    assert attention is not None
    for place, weights in enumerate(np.split(attention, bags.offsets[1:-1].numpy())):
        found = session.run(None, {"pixels": pixels[place], "metadata": encoded[place]})
        np.testing.assert_allclose(found[0], [probability[place]], atol=2e-3)
        np.testing.assert_allclose(found[3], weights, atol=2e-3)


def test_the_file_is_valid_and_describes_its_inputs(make_patients: MakePatients, tmp_path: Path) -> None:
    bundle = ModelBundle(fitted(make_patients()), ABOUT, SCORES)
    export_onnx(bundle, str(tmp_path / "head.onnx"))
    model = onnx.load(tmp_path / "head.onnx")
    onnx.checker.check_model(model, full_check=True)
    properties = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert properties["class_names"] == ["reactive", "tumoral"] and properties["threshold"] == 0.4
    assert properties["outcome"] == "binary"
    assert properties["metadata_columns"] == bundle.head.encoder.columns
    assert properties["metadata_encoder"] == json.loads(json.dumps(bundle.head.encoder.to_json()))
    assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]


def test_mil_fit_writes_onnx_files(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    """Head and whole model next to the bundle's own files, with the same probabilities from raw pixels."""
    from mil_toolkit.features.decoding import decode
    from mil_toolkit.features.pixels import prepare

    options = ("--features", tiny.features, "--study", tiny.study, "--output", tmp_path / "model")
    done = command("fit", tiny.cohort_toml, *options, "--onnx", "--json")
    assert done.code == 0, done.err
    assert done.json["onnx"] == [str(tmp_path / "model" / name) for name in ("head.onnx", "whole.onnx")]
    for name in ("head.onnx", "whole.onnx"):  # no path of the machine, in which a user's name may stand
        assert b'.py"' not in (tmp_path / "model" / name).read_bytes()
    bundle = ModelBundle.load(tmp_path / "model")
    patients = Patients.of(tiny.cohort, tiny.cache)
    probability, _, _ = bundle.probabilities(patients)
    encoded = bundle.head.encoder.encode(patients.metadata).to_numpy(np.float32)
    for place, patient in list(enumerate(patients.ids))[:3]:
        pixels = [prepare(decode(path.read_bytes()), 32, 0, "none") for path in tiny.cohort.images[patient]]
        found = run(tmp_path / "model" / "whole.onnx", pixels=np.stack(pixels), metadata=encoded[place])
        np.testing.assert_allclose(found["probability"], [probability[place]], atol=1e-2)  # perhaps bfloat16


# Inputs without an answer.


def test_inputs_that_allow_no_prediction_get_none(exported: Exported) -> None:
    """An empty bag, and NaN or infinite values in metadata or embeddings."""
    pooling, bundle, patients, path = exported
    assert patients.bags is not None
    bag = patients.bags.instances[:3].numpy()
    row = bundle.head.encoder.encode(patients.metadata).to_numpy(np.float32)[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wrong = []
    if pooling in ("top-k", "transformer"):
        with pytest.raises((state.Fail, state.InvalidArgument)):  # the runtime refuses it
            session.run(None, {"embeddings": bag[:0], "metadata": row})
    else:
        wrong += [(bag[:0], row)]
    for value in (np.nan, np.inf, -np.inf):
        wrong += [(bag, np.where(np.arange(len(row)) == 1, np.float32(value), row))]
        wrong += [(np.where(np.arange(3)[:, None] == 2, np.float32(value), bag), row)]
    for embeddings, metadata in wrong:
        outputs = session.run(None, {"embeddings": embeddings, "metadata": metadata})
        assert outputs[1] == [-1] and outputs[1].dtype == np.int64
        assert all(np.isnan(output).all() for output in (outputs[0], *outputs[2:]))
        assert len(outputs[3]) == len(embeddings)


@pytest.mark.parametrize("branch", ["direct", "mlp"])
def test_missing_values_get_no_prediction_from_metadata_only(
    branch: str, make_patients: MakePatients, tmp_path: Path
) -> None:
    bundle = ModelBundle(fitted(make_patients(images=False), metadata_branch=branch), ABOUT, SCORES)
    export_onnx(bundle, tmp_path / "clinical.onnx")
    found = run(tmp_path / "clinical.onnx", metadata=np.array([0, np.nan], np.float32))
    assert np.isnan(found["probability"]) and found["prediction"] == -1 and np.isnan(found["spread"])


# What is refused.


def test_a_missing_extra_is_named(
    make_patients: MakePatients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"pip install 'mil_toolkit\[onnx\]'"):
        export_onnx(ModelBundle(fitted(make_patients()), ABOUT, SCORES), tmp_path / "head.onnx")
    assert not any(tmp_path.iterdir())


def test_an_unavailable_backbone_is_left_out_with_a_warning(
    make_patients: MakePatients, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = about_spec(backbone="resnet18", weights="file", weight_digest="0123456789")
    bundle = ModelBundle(fitted(make_patients()), about, SCORES)
    assert publish_onnx(bundle, tmp_path) == [tmp_path / "head.onnx"]
    assert "whole.onnx is left out: The weights of the backbone came from a file" in caplog.text


def test_images_are_refused_for_a_model_without_images(make_patients: MakePatients, tmp_path: Path) -> None:
    bundle = ModelBundle(fitted(make_patients(images=False)), ABOUT, SCORES)
    with pytest.raises(UsageError, match="does not look at images"):
        export_onnx(bundle, tmp_path / "whole.onnx", images=True)
