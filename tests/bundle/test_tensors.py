"""Sealed nonsense in the tensors of a bundle: what they are is compared with what config.json declares."""

import json
import resource
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import ABOUT, SCORES, change_config, change_tensors, replace_file
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.domain.fit import fit_domain
from mil_toolkit.bundle.tensors import head_record, head_tensors, model_shapes
from mil_toolkit.config.head import POOLING_NAMES, HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

WEIGHT, SHIFT, SCALE = "model.pooling.hidden.weight", "projection.shift", "projection.scale"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(name="folder")
def _folder(make_patients: Callable[..., Patients], tmp_path: Path) -> Path:
    config = HeadConfig(hidden=8, components=4)
    head = refit(make_patients(), config, epoch=1, member_count=2, seed=(3,))
    ModelBundle(head, ABOUT, SCORES).save(tmp_path / "model")
    return tmp_path / "model"


def put(name: str, value: float, place: int = 0) -> Callable[[Tensors], None]:
    """A change of one number of a tensor."""

    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[place] = value

    return change


def make(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    """A change of a whole tensor."""
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("finite", put(WEIGHT, torch.nan)),
        ("finite", put(WEIGHT, torch.inf, -1)),
        ("finite", put(SHIFT, -torch.inf)),
        ("finite", put(SCALE, torch.nan, 3)),
        ("above 0", put(SCALE, 0.0)),
        ("above 0", put(SCALE, -1.0, 5)),
        (f"{WEIGHT} is float64", make(WEIGHT, torch.Tensor.double)),
        (f"{WEIGHT} is float16", make(WEIGHT, torch.Tensor.half)),
        (f"{WEIGHT} is int64", make(WEIGHT, torch.Tensor.long)),
        ("complex64", make(WEIGHT, lambda tensor: tensor.to(torch.complex64))),
        ("float8", make(WEIGHT, lambda tensor: tensor.to(torch.float8_e4m3fn))),
        (
            r"hidden\.weight is float32 \(2, 4, 7\), expected float32 \(2, 4, 8\)",
            make(WEIGHT, lambda t: t[..., :7]),
        ),
        (r"hidden\.weight is float32 \(1, 4, 8\)", make(WEIGHT, lambda tensor: tensor[:1])),
        (r"hidden\.weight is float32 \(2, 32\)", make(WEIGHT, lambda tensor: tensor.flatten(1))),
        (r"hidden\.weight is float32 \(0, 4, 8\)", make(WEIGHT, lambda tensor: tensor[:0])),
        (rf"{SHIFT} is float32 \(5,\)", make(SHIFT, lambda tensor: tensor[:5])),
        (r"projection\.components is float32 \(6, 3\)", make("projection.components", lambda t: t[:, :3])),
        (f"{WEIGHT} missing", lambda tensors: tensors.pop(WEIGHT)),
        (f"{SHIFT} missing", lambda tensors: tensors.pop(SHIFT)),
        ("projection.components missing", lambda tensors: tensors.pop("projection.components")),
        ("model.more unexpected", lambda tensors: tensors.update({"model.more": torch.zeros(2)})),
        ("other unexpected", lambda tensors: tensors.update(other=torch.zeros(2))),
        ("missing", lambda tensors: tensors.clear()),
    ],
)
def test_tensors_that_cannot_be_are_named(words: str, change: Any, folder: Path) -> None:
    change_tensors(folder, change)
    with pytest.raises(DataError, match=words) as caught:
        ModelBundle.load(folder)
    assert all("model.safetensors" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("domain.shift missing", lambda tensors: tensors.pop("domain.shift")),
        ("domain.components missing", lambda tensors: tensors.pop("domain.components")),
        ("domain.more unexpected", lambda tensors: tensors.update({"domain.more": torch.zeros(2)})),
        (r"domain\.components is float32 \(6, 4\)", make("domain.components", lambda t: t[:, :4])),
        ("domain.scale: all values must be above 0", put("domain.scale", 0.0)),
        ("domain.scale.*finite", put("domain.scale", torch.nan)),
    ],
)
def test_the_projection_of_the_domain_is_checked(
    words: str, change: Any, make_patients: Callable[..., Patients], tmp_path: Path
) -> None:
    patients = make_patients(count=20)
    head = refit(patients, HeadConfig(hidden=8, components=4), epoch=1, member_count=1, seed=(3,))
    fitted = fit_domain(patients, head, 0)
    assert fitted is not None and fitted.projection is not None
    about = replace(ABOUT, domain=fitted.domain)
    ModelBundle(head, about, SCORES, domain_projection=fitted.projection).save(tmp_path)
    loaded = ModelBundle.load(tmp_path).domain_projection
    assert loaded is not None and loaded.components is not None and fitted.projection.components is not None
    assert torch.equal(loaded.components, fitted.projection.components)
    assert torch.equal(loaded.shift, fitted.projection.shift)
    change_tensors(tmp_path, change)
    with pytest.raises(DataError, match=words):
        ModelBundle.load(tmp_path)


def test_many_unknown_tensors_take_one_line(folder: Path) -> None:
    change_tensors(
        folder, lambda tensors: tensors.update({f"x{i}\x1b[31m": torch.zeros(1) for i in range(999)})
    )
    with pytest.raises(DataError) as caught:
        ModelBundle.load(folder)
    (line,) = caught.value.problems
    assert "and 994 more unexpected" in line and line.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\x80\x04N.",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
        struct.pack("<Q", 3) + b"{}}",
        *(
            struct.pack("<Q", len(header)) + header
            for header in (
                json.dumps({"a": entry}).encode()
                for entry in (
                    {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
                    {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]},
                    {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]},
                    {"dtype": "F32", "shape": "x", "data_offsets": [0, 0]},
                    {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]},
                    {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
                )
            )
        ),
    ],
    ids=range(12),
)
def test_headers_that_declare_more_than_there_is_are_refused(content: bytes, folder: Path) -> None:
    replace_file(folder, "model.safetensors", content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        ModelBundle.load(folder)


def test_empty_tensors_of_any_declared_size_allocate_nothing(folder: Path) -> None:
    """A shape such as (10**9, 0) needs no byte of the file."""
    names = list(head_tensors(ModelBundle.load(folder).head))
    header = {name: {"dtype": "F32", "shape": [10**9, 0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps(header).encode()
    replace_file(folder, "model.safetensors", struct.pack("<Q", len(text)) + text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"\(1000000000, 0\), expected"):
        ModelBundle.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("config", {"hidden": 10**9}),
        ("config", {"hidden": 2**31, "pooling": "transformer"}),
        ("config", {"metadata_branch": "mlp", "metadata_hidden": 10**9}),
        ("config", {"top_k": 10**9}),
        ("config", {"instance_layers": 1}),
        ("config", {"instance_layers": 2**31}),
        ("config", {"instance_layers": 2, "instance_width": 10**9}),
        ("config", {"hidden": 0}),
        (None, {"embedding_width": 2**20}),
        (None, {"embedding_width": 0}),
        (None, {"members": 256}),
        (None, {"members": 1}),
    ],
)
def test_declared_sizes_are_compared_before_anything_is_allocated(
    section: str | None, values: dict[str, Any], folder: Path
) -> None:
    change_config(
        folder, lambda config: (config["head"][section] if section else config["head"]).update(values)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if "top_k" in values:
        ModelBundle.load(folder)  # it has no effect on attention, nor on any size
        return
    with pytest.raises(DataError, match=r"model\.safetensors|config\.json"):
        ModelBundle.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_heads_that_fit_their_tensors_and_cannot_be_applied_are_refused(
    make_patients: Callable[..., Patients], tmp_path: Path
) -> None:
    """A transformer has four heads, among which 6 columns cannot be divided."""
    model = MILModel(HeadConfig(pooling="transformer", hidden=6), 4, 0, generators([0]))
    head = refit(make_patients(), HeadConfig(hidden=8, components=4), epoch=1, member_count=1, seed=(3,))
    no_columns = replace(head.encoder, encoders=(), means={}, deviations={})
    bundle = ModelBundle(replace(head, model=model, encoder=no_columns), replace(ABOUT, columns=[]), SCORES)
    bundle.save(tmp_path)
    with pytest.raises(DataError, match=r"config\.json.*cannot build its model"):
        ModelBundle.load(tmp_path)


@pytest.mark.parametrize("pooling", POOLING_NAMES)
@pytest.mark.parametrize(("branch", "layers"), [("mlp", 0), ("direct", 2), ("none", 0)])
def test_shapes_are_those_of_the_model_itself(pooling: str, branch: str, layers: int) -> None:
    config = HeadConfig(pooling=pooling, metadata_branch=branch, hidden=8, metadata_hidden=5)
    config = replace(config, instance_layers=layers, instance_width=7)

    def build(members: int) -> MILModel:
        return MILModel(config, 6, 3, generators([0]) * members)

    expected = {f"model.{name}": tuple(tensor.shape) for name, tensor in build(3).state_dict().items()}
    assert model_shapes(build, 3) == expected


def test_the_record_of_a_head_describes_it(make_patients: Callable[..., Patients]) -> None:
    head = refit(make_patients(), HeadConfig(hidden=8, components=4), epoch=1, member_count=2, seed=(3,))
    record = head_record(head)
    assert (record.members, record.embedding_width, record.config["hidden"]) == (2, 4, 8)


# Through to the command: a model that is not a number predicts nobody.


@pytest.mark.parametrize("name", [WEIGHT, SCALE, "model.metadata_classifier.bias"])
def test_a_tensor_that_is_not_a_number_never_becomes_the_negative_class(
    name: str, tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    names = json.loads((bundle / "config.json").read_text())["head"]["config"]
    name = name if names["fusion"] == "late" or "metadata" not in name else "model.classifier.bias"
    change_tensors(bundle, put(name, torch.nan))
    outputs = ("--output", tmp_path / "p.csv", "--submission", tmp_path / "s.csv")
    done = command("predict", bundle, tiny.cohort_toml, "--features", tiny.features, *outputs)
    assert done.code == 3 and "model.safetensors" in done.err and name in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_numbers_that_overflow_name_the_patients(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    """All tensors are finite, their products are not."""
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    change_tensors(bundle, lambda tensors: [tensor.mul_(1e30) for tensor in tensors.values()])
    outputs = ("--output", tmp_path / "p.csv", "--submission", tmp_path / "s.csv")
    done = command("predict", bundle, tiny.cohort_toml, "--features", tiny.features, *outputs)
    assert done.code == 3 and "patient P001 has no prediction" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
