"""A bundle's folder: the same probabilities after a round trip, and an error for every damage."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import ABOUT, SCORES

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.files import BACKBONE
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import POOLING_NAMES, HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_json
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

MakePatients = Callable[..., Patients]
READ = ["model.safetensors", "config.json", "scores.json"]  # by ModelBundle.load


def bundle(patients: Patients, **config: Any) -> ModelBundle:
    head = HeadConfig(**{"hidden": 8, "metadata_hidden": 6, "components": 4} | config)
    return ModelBundle(refit(patients, head, epoch=1, member_count=2, seed=(3,)), ABOUT, SCORES)


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
        {"instance_layers": 2, "instance_width": 6, "instance_activation": "gelu"},
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


def test_settings_of_fine_tuning_come_back(make_patients: MakePatients, tmp_path: Path) -> None:
    about = replace(ABOUT, finetuned=FinetuneConfig("layer4", epochs=3))
    replace(bundle(make_patients()), about=about).save(tmp_path)
    assert ModelBundle.load(tmp_path).about == about


def test_only_fine_tuned_models_have_keys_of_fine_tuning(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert "finetuned" not in config["about"] and config["about"]["features"]["digest"] == "1e"
    assert "finetuned" not in json.loads((folder / "scores.json").read_text())


def test_a_fine_tuned_backbone_is_read_completely_or_not_at_all(
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


def test_the_probability_is_computed_from_the_mean_logit(make_patients: MakePatients) -> None:
    made, patients = bundle(make_patients()), make_patients()
    probability, spread, attention = made.probabilities(patients)
    logits = made.head.apply(patients).logits
    calibrated = 0.8 * logits.mean(0) - 0.1
    np.testing.assert_allclose(np.log(probability / (1 - probability)), calibrated, rtol=1e-6)
    np.testing.assert_allclose(spread, np.std(1 / (1 + np.exp(0.1 - 0.8 * logits)), axis=0), rtol=1e-5)
    assert attention is not None and patients.bags is not None
    assert len(attention) == len(patients.bags.instances)


def test_labels_do_not_change_probabilities(make_patients: MakePatients) -> None:
    made, patients = bundle(make_patients()), make_patients()
    unlabelled = Patients(patients.bags, np.full(12, -1), patients.metadata)
    np.testing.assert_array_equal(made.probabilities(patients)[0], made.probabilities(unlabelled)[0])


def test_the_folder_holds_the_documented_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "scores.json",
        "README.md",
    }


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        ModelBundle.load(folder)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_named(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=name):
        ModelBundle.load(folder)


@pytest.mark.parametrize("name", READ)
def test_a_flipped_bit_is_detected_anywhere_in_a_file(name: str, folder: Path) -> None:
    """Header, names, offsets, numbers: sixty places over the whole file, and the first and the last byte."""
    path = folder / name
    whole = path.read_bytes()
    for place in np.unique(np.linspace(0, len(whole) - 1, 62).astype(int)):
        content = bytearray(whole)
        content[place] ^= 1 << int(place) % 8
        path.write_bytes(content)
        with pytest.raises(DataError, match=name):
            ModelBundle.load(folder)


def test_the_tensors_of_another_bundle_are_refused(
    folder: Path, make_patients: MakePatients, tmp_path: Path
) -> None:
    bundle(make_patients(), hidden=16).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged or foreign"):
        ModelBundle.load(folder)


def test_all_problems_are_reported_at_once(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "scores.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        ModelBundle.load(folder)
    assert [Path(line.split()[0]).name for line in caught.value.problems[:2]] == [
        "model.safetensors",
        "scores.json",
    ]


def test_the_card_may_be_edited(folder: Path) -> None:
    (folder / "README.md").write_text("Validated in our hospital.")
    assert ModelBundle.load(folder).about == ABOUT


def test_a_newer_schema_advises_an_upgrade(folder: Path) -> None:
    edit(folder, lambda config: config.update(schema=3))
    with pytest.raises(
        DataError, match=r"schema 3, written by a newer mil_toolkit.*reads schema 2. Upgrade: pip install"
    ):
        ModelBundle.load(folder)


def test_a_model_that_this_version_cannot_build_names_the_version_that_can(folder: Path) -> None:
    edit(folder, lambda config: config["head"]["config"].update(fancy=1), seal=True)
    with pytest.raises(DataError, match=r"written by mil_toolkit 0\.1\.0.*fancy.*Use that version"):
        ModelBundle.load(folder)


@pytest.mark.parametrize("name", ["nowhere", "study"])
def test_a_folder_that_is_not_a_bundle_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "config.json").write_text('{"schema": 1, "study": {}}')
    with pytest.raises(DataError, match=r"not .*bundle.*mil-fit writes .* to studies/NAME/model"):
        ModelBundle.load(tmp_path / name)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"schema": 1}'])
def test_json_that_does_not_describe_a_bundle_is_refused(content: str, folder: Path) -> None:
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
    with pytest.raises(DataError, match=r"config\.json is damaged or was edited"):
        ModelBundle.load(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], seal: bool = False) -> None:
    """Change config.json; seal: with a valid digest, as if another version of mil_toolkit had written it."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    if seal:
        del config["digest"]
        config["digest"] = digest_json(config)
    (folder / "config.json").write_text(json.dumps(config))
