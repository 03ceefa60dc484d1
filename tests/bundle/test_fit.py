"""`fit` and mil-fit: the bundle of a study, complete or absent."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle import bundle as bundles
from mil_toolkit.bundle import fit as fitting
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.records import to_json
from mil_toolkit.training.patients import Patients

FILES = {"model.safetensors", "config.json", "scores.json", "README.md"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fitted(tiny: Tiny, output: Path, **changes: Any) -> ModelBundle:
    arguments = {"cohort": tiny.cohort, "cache": tiny.cache, "study_folder": tiny.study} | changes
    return fit(**arguments, output=output, device="cpu")


def test_the_bundle_holds_the_chosen_configuration(tiny: Tiny) -> None:
    assert names(tiny.bundle) == FILES
    bundle = ModelBundle.load(tiny.bundle)
    best = json.loads((tiny.study / "best.json").read_text())
    assert bundle.head.member_count == 2 and bundle.about.epoch == best["epoch"]
    assert bundle.head.model.config == HeadConfig(**{**best["config"], "epochs": best["epoch"]})
    assert to_json(bundle.scores) == json.loads((tiny.study / "scores.json").read_text())
    assert (tiny.bundle / "scores.json").read_bytes() == (tiny.study / "scores.json").read_bytes()
    assert bundle.about.patients == 24 and bundle.about.marks is not None
    assert len(bundle.about.marks.ids) == 24 and len(bundle.about.marks.images) == bundle.about.images
    assert bundle.about.features is not None and bundle.about.features.spec == tiny.cache.spec


@pytest.mark.parametrize("threads", [1, 3])
def test_fitting_again_gives_the_same_bits(tiny: Tiny, tmp_path: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    fitted(tiny, tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tiny.bundle / name).read_bytes()


def test_unlabelled_patients_are_not_used(tiny: Tiny, tmp_path: Path) -> None:
    fitted(tiny, tmp_path / "labelled", cohort=tiny.cohort.labelled())
    for name in FILES:
        assert (tmp_path / "labelled" / name).read_bytes() == (tiny.bundle / name).read_bytes()


def test_the_members_differ(tiny: Tiny) -> None:
    logits = ModelBundle.load(tiny.bundle).head.apply(Patients.of(tiny.cohort, tiny.cache)).logits
    assert logits.shape == (2, 27) and not np.allclose(logits[0], logits[1])


@pytest.mark.parametrize("when", ["publish", "publish_json"])
def test_a_failure_leaves_no_folder(
    when: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles, when, fail)
    with pytest.raises(OSError, match="No space"):
        fitted(tiny, tmp_path / "model")
    assert names(tmp_path) == set()


def test_a_failure_keeps_the_older_bundle(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = shutil.copytree(tiny.bundle, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in older.iterdir()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "publish_json", stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(tiny, older)
    assert names(tmp_path) == {"model"}
    assert {path.name: path.read_bytes() for path in older.iterdir()} == before


def test_a_bundle_replaces_an_older_one(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.bundle, tmp_path / "model")
    for name in ("README.md", "head.onnx", ".tmp-killed"):  # the last as mil-fit --onnx may leave it
        (tmp_path / "model" / name).write_text("of the older one")
    fitted(tiny, tmp_path / "model")
    assert names(tmp_path) == {"model"} and names(tmp_path / "model") == FILES
    assert (tmp_path / "model" / "README.md").read_bytes() == (tiny.bundle / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("bundle", "model contains entries that are not part of a bundle: predictions.csv. "),
        ("study", ", DONE, audit.json and "),
        ("another", "config.json, model.safetensors. "),
        ("file", "is not a folder"),
    ],
)
def test_a_folder_that_is_not_a_bundle_is_kept_and_refused_before_training(
    there: str, said: str, tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model"
    if there in ("bundle", "study"):
        shutil.copytree(tiny.bundle if there == "bundle" else tiny.study, output)
        (output / "predictions.csv").touch()
    elif there == "another":
        output.mkdir()
        for name in ("config.json", "model.safetensors"):
            (output / name).write_text("{}")
    else:
        output.write_text("precious")
    before = sorted(output.rglob("*")) if output.is_dir() else output.read_text()
    monkeypatch.setattr(fitting, "refit", None)  # not reached
    options = ("--study", tiny.study, "--features", tiny.features, "--output", output)
    done = command("fit", tiny.cohort_toml, *options)
    assert done.code == 2 and said in done.err and "name another folder" in done.err
    assert before == (sorted(output.rglob("*")) if output.is_dir() else output.read_text())
    assert names(tmp_path) == {"model"}


def test_another_cohort_or_other_features_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    labelled = tiny.cohort.labelled()
    flipped = replace(labelled, labels=1 - labelled.labels)
    with pytest.raises(DataError, match=r"cohort\.digest"):
        fitted(tiny, tmp_path / "model", cohort=flipped)
    with pytest.raises(DataError, match=r"features\.digest"):
        fitted(tiny, tmp_path / "model", cache=None)
    assert names(tmp_path) == set()


def test_the_bundle_describes_its_origin(tiny: Tiny) -> None:
    about, config = ModelBundle.load(tiny.bundle).about, json.loads((tiny.study / "config.json").read_text())
    counts = [int((tiny.cohort.labels == label).sum()) for label in (0, 1)]
    assert list(about.class_counts) == counts and to_json(about.procedure) == config["study"]
    assert about.images == len(tiny.cache.bags(tiny.cohort.labelled().patient_ids).instances)
    assert about.features is not None
    assert about.features.recorded == tiny.cache.recorded(tiny.cohort.patient_ids)


def test_metadata_only_from_end_to_end(
    tiny: Tiny, metadata_model: Path, tmp_path: Path, command: Command
) -> None:
    asked = ("--output", tmp_path / "p.csv", "--attention", tmp_path / "a.csv")
    refused = command("predict", metadata_model, tiny.cohort_toml, *asked)
    assert refused.code == 2 and "does not look at images" in refused.err
    assert command("predict", metadata_model, tiny.cohort_toml, *asked[:2]).code == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 28
