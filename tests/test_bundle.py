"""A bundle's folder: the same probabilities after a round trip, and every damage told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mil_toolkit.bundle import BACKBONE, ModelBundle
from mil_toolkit.errors import DataError
from mil_toolkit.hparams import POOLING_NAMES, HeadConfig
from mil_toolkit.inputs import Patients
from mil_toolkit.nested import refit

MakePatients = Callable[..., Patients]
ABOUT: dict[str, Any] = {
    "study": "first",
    "cohort": "tiny",
    "class_names": ["reactive", "tumoral"],
    "columns": [{"name": "age"}, {"name": "sex"}],
    "features": {"name": "resnet34-imagenet"},
    "patients": 12,
    "epoch": 2,
    "decision": {"slope": 0.8, "intercept": -0.1, "threshold": 0.4},
}
SCORES = {"outer": {"balanced_accuracy": {"value": 0.8125}}}


def bundle(patients: Patients, **config: Any) -> ModelBundle:
    head = HeadConfig(**{"hidden": 8, "metadata_hidden": 6, "components": 4} | config)
    return ModelBundle(refit(patients, head, epoch=1, members=2, seed=(3,)), ABOUT, SCORES)


@pytest.fixture(name="folder")
def _folder(make_patients: MakePatients, tmp_path: Path) -> Path:
    bundle(make_patients()).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        *({"pooling": name} for name in POOLING_NAMES),
        {"components": 0},
        {"components": 0, "standardise": False},
        {"fusion": "concat", "metadata_branch": "direct"},
        {"metadata_branch": "none"},
        {"image_branch": False},
    ],
    ids=str,
)
def test_a_round_trip_gives_the_same_bits(
    config: dict[str, Any], make_patients: MakePatients, tmp_path: Path
) -> None:
    saved, new = bundle(make_patients(), **config), make_patients(count=7, seed=4)
    saved.save(tmp_path)
    loaded = ModelBundle.load(tmp_path)
    for one, other in zip(saved.probabilities(new), loaded.probabilities(new), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.about == ABOUT and loaded.scores == SCORES


def test_a_trained_backbone_comes_back_whole_or_not_at_all(
    make_patients: MakePatients, tmp_path: Path
) -> None:
    backbone = {"conv.weight": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)}
    replace(bundle(make_patients()), backbone=backbone).save(tmp_path)
    loaded = ModelBundle.load(tmp_path).backbone
    assert loaded is not None and torch.equal(loaded["conv.weight"], backbone["conv.weight"])
    content = bytearray((tmp_path / BACKBONE).read_bytes())
    content[-1] ^= 1
    (tmp_path / BACKBONE).write_bytes(content)
    with pytest.raises(DataError, match=BACKBONE):
        ModelBundle.load(tmp_path)


def test_the_probability_is_that_of_the_mean_logit(make_patients: MakePatients) -> None:
    made, patients = bundle(make_patients()), make_patients()
    probability, spread, attention = made.probabilities(patients)
    logits = made.head.apply(patients).logits
    calibrated = 0.8 * logits.mean(0) - 0.1
    np.testing.assert_allclose(np.log(probability / (1 - probability)), calibrated, rtol=1e-6)
    np.testing.assert_allclose(spread, np.std(1 / (1 + np.exp(0.1 - 0.8 * logits)), axis=0), rtol=1e-5)
    assert attention is not None and patients.bags is not None
    assert len(attention) == len(patients.bags.instances)


def test_labels_are_not_looked_at(make_patients: MakePatients) -> None:
    made, patients = bundle(make_patients()), make_patients()
    unlabelled = Patients(patients.bags, np.full(12, -1), patients.metadata)
    np.testing.assert_array_equal(made.probabilities(patients)[0], made.probabilities(unlabelled)[0])


def test_the_folder_holds_what_the_design_says(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "scores.json",
        "README.md",
    }
    card = (folder / "README.md").read_text()
    assert "Tells *tumoral* (positive) from *reactive* (negative)" in card
    assert "Expected balanced accuracy, from outer folds that chose nothing: 0.812." in card


def test_a_study_without_outer_folds_says_so(make_patients: MakePatients, tmp_path: Path) -> None:
    made = bundle(make_patients())
    ModelBundle(made.head, ABOUT, {"outer": None}).save(tmp_path)
    assert "Expected score: not evaluated." in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "scores.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        ModelBundle.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "scores.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_named(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=name):
        ModelBundle.load(folder)


def test_a_flipped_bit_in_the_weights_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or foreign"):
        ModelBundle.load(folder)


def test_another_schema_is_refused(folder: Path) -> None:
    edit(folder, lambda config: config.update(schema=2))
    with pytest.raises(DataError, match="is of schema 2, this version reads schema 1"):
        ModelBundle.load(folder)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"schema": 1}'])
def test_json_that_describes_no_bundle_is_refused(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json"):
        ModelBundle.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("about"),
        lambda config: config["head"].update(members=3),
        lambda config: config["about"]["decision"].update(threshold=0.5),
        lambda config: config.update(more=1),
    ],
)
def test_an_edited_config_is_refused(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    edit(folder, change)
    with pytest.raises(DataError, match=r"config\.json is damaged, or was edited"):
        ModelBundle.load(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
