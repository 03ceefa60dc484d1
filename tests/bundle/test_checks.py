"""Sealed nonsense in config.json: right digests, and a sentence that names file and field."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bundles import change_config
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.checks import config_problems
from mil_toolkit.bundle.records import BundleConfig
from mil_toolkit.bundle.tensors import head_record
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.conformal import HeldOutScores
from mil_toolkit.outcomes.kinds import OutcomeRecord
from mil_toolkit.study.abstention import Calibration


def at(*keys: str | int, to: object) -> Callable[[Any], None]:
    """A change of the value under these keys."""

    def change(value: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return change


def without(*keys: str) -> Callable[[Any], None]:
    """A change that removes the last of these keys."""

    def change(value: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        del value[keys[-1]]

    return change


def reverse(record: Any, name: str) -> None:
    """Reverse the order of the keys of an object, which the digest does not depend on."""
    record[name] = dict(reversed(record[name].items()))


DECISION, HEAD = ("about", "decision"), ("head", "config")
AGE = ("about", "domain", "numbers", "age", "spread")
SIZE = ("about", "domain", "bag_size", "spread")
LOGARITHMS = {"low": 1.0, "middle": 2.0, "high": 3.0, "logarithms": True, "zeros": False, "smallest": 0.1}
NOBODY = {"scores": [], "weights": [], "units": 0}
SPEC, ENCODER = ("about", "features", "spec"), ("head", "encoder")
CHANGES: list[tuple[str, Callable[[Any], None]]] = [
    ("outputs", at("head", "outputs", to=3)),
    # The decision.
    ("threshold", at(*DECISION, "threshold", to="0.5")),
    ("threshold", at(*DECISION, "threshold", to=7)),
    ("threshold", at(*DECISION, "threshold", to=-0.1)),
    ("threshold", at(*DECISION, "threshold", to=None)),
    ("threshold", at(*DECISION, "threshold", to=True)),
    ("threshold", at(*DECISION, "threshold", to=10**400)),
    ("slope", at(*DECISION, "slope", to=0)),
    ("slope", at(*DECISION, "slope", to=-1)),
    ("intercept", at(*DECISION, "intercept", to=[0])),
    ("threshold", without(*DECISION, "threshold")),
    ("decision", without("about", "decision")),
    ("decision", at("about", "decision", to=[])),
    # Sections and their types.
    ("about", without("about")),
    ("about", at("about", to="me")),
    ("head", without("head")),
    ("head", at("head", to=None)),
    ("digests", without("digests")),
    ("study", at("about", "study", to=3)),
    ("versions", at("about", "versions", to={})),
    ("versions", at("about", "versions", to={"torch": "2"})),
    ("versions", at("about", "versions", to={"mil_toolkit": None})),
    ("patients", at("about", "patients", to=-1)),
    ("patients", at("about", "patients", to=1e300)),
    ("class_counts", at("about", "class_counts", to=[1, 1])),
    ("class_counts", at("about", "class_counts", to=[25, -1])),
    ("class_counts", at("about", "class_counts", to=[24])),
    ("class_names", at("about", "class_names", to=["a"])),
    ("class_names", at("about", "class_names", to=[0, 1])),
    ("images", at("about", "images", to=0)),
    ("images", at("about", "images", to=1)),
    ("epoch", at("about", "epoch", to=0)),
    ("epoch", at("about", "epoch", to=10**9)),
    ("epoch", at("about", "epoch", to=1.5)),
    # Text that cannot be printed, or fills the screen.
    ("Unicode", at("about", "study", to="\ud800")),
    ("Unicode", at("about", "decision", "threshold", to="\udcff")),
    ("Unicode", at("head", "more", to="\ud800")),
    ("schema", at("schema", to="\x1b[31m" + "x" * 9999)),
    ("schema", at("schema", to=True)),
    ("kind", at("about", "columns", 0, "kind", to="\x1b[31m" + "x" * 9999)),
    ("fitted_on", at("about", "fitted_on", to="x" * 9999)),
    ("encoder", at("head", "encoder", "encoders", 0, "name", to="x" * 9999)),
    ("scrypt", at("about", "fitted_on", "scrypt", to={})),
    ("weight_digest", at("about", "features", "spec", "weight_digest", to="\x1b[31m")),
    # The procedure.
    ("prevalence", at("about", "procedure", "prevalence", to=5)),
    ("prevalence", at("about", "procedure", "prevalence", to="a")),
    ("folds", at("about", "procedure", "folds", to=0)),
    ("outer-folds", at("about", "procedure", "outer_folds", to="many")),
    ("settings", at("about", "procedure", "settings", to=[1])),
    ("jitter", at("about", "finetuned", to={"unfreeze": "layer4", "jitter": 5})),
    ("finetuned", at("about", "finetuned", to=3)),
    # The columns and their ranges.
    ("columns", at("about", "columns", to={})),
    ("kind", at("about", "columns", 0, "kind", to="image")),
    ("transform", at("about", "columns", 0, "transform", to="exp")),
    ("columns", at("about", "columns", 1, "name", to="age")),
    ("columns", at("about", "columns", 1, "name", to="other")),
    ("columns", at("about", "columns", 0, "kind", to="category")),
    ("columns", at("about", "columns", 0, "transform", to="log")),
    ("columns", at("about", "columns", to=[])),
    ("ranges", at("about", "ranges", "age", to=[80, 20])),
    ("ranges", at("about", "ranges", "age", to=["a", "b"])),
    ("ranges", at("about", "ranges", "age", to=[1])),
    ("ranges", at("about", "ranges", to={"sex": [0, 1]})),
    ("ranges", at("about", "ranges", to={"other": [0, 1]})),
    # The domain, and the scores of held-out patients.
    ("domain.numbers", at("about", "domain", "numbers", to={})),
    ("domain.unreliable", at("about", "domain", "unreliable", to=["other"])),
    ("the guess has 300 weights", at(*AGE, "guess", to={"weights": [1.0] * 300, "intercept": 0.0})),
    ("must not have a guess", at(*SIZE, "guess", to={"weights": [], "intercept": 0.0})),
    ("same number of columns", at("about", "domain", "images", "space", "within", to=[1.0])),
    ("domain.", at("about", "domain", "images", "own_projection", to=False)),
    ("beyond 700", at(*AGE, to=LOGARITHMS | {"high": 701.0})),
    ("beyond 700", at(*AGE, to=LOGARITHMS | {"low": -701.0})),
    ("calibration.classes", lambda config: config["about"]["calibration"]["classes"].pop()),
    ("calibration.classes", at("about", "calibration", "classes", to=[])),
    ("calibration.classes", lambda config: config["about"]["calibration"]["classes"].append(NOBODY)),
    # The spec of the features.
    ("features", at("about", "features", to="none")),
    ("features", at("about", "features", to=None)),
    ("name", at("about", "features", "name", to="../../elsewhere")),
    ("name", at("about", "features", "name", to="/etc")),
    ("name", at("about", "features", "name", to="..")),
    ("name", at("about", "features", "name", to="")),
    ("name", at("about", "features", "name", to="a\0b")),
    ("recorded", at("about", "features", "recorded", to="float32")),
    ("spec", at(*SPEC, to={})),
    ("width", without(*SPEC, "width")),
    ("width", at(*SPEC, "width", to=0)),
    ("width", at(*SPEC, "width", to=10**9)),
    ("width", at(*SPEC, "width", to="512")),
    ("weights", at(*SPEC, "weights", to="/etc/passwd")),
    ("weights", at(*SPEC, "weights", to="checkpoint.pth")),
    ("weights", at(*SPEC, "weights", to="https://example.org/weights.pth")),
    ("weights", at(*SPEC, "weight_digest", to=None)),
    ("backbone", at(*SPEC, "backbone", to="timm:hf-hub:someone/net")),
    ("backbone", at(*SPEC, "backbone", to="timm:hf_hub:someone/net")),
    ("backbone", at(*SPEC, "backbone", to="timm:local-dir:/tmp")),
    ("backbone", at(*SPEC, "backbone", to="timm:../net")),
    ("backbone", at(*SPEC, "backbone", to="alexnet")),
    ("backbone", at(*SPEC, "backbone", to=["resnet18"])),
    ("image_size", at(*SPEC, "image_size", to=10**9)),
    ("image_size", at(*SPEC, "image_size", to=0)),
    ("crop", at(*SPEC, "crop", to=-1)),
    ("preprocess", at(*SPEC, "preprocess", to="eval")),
    ("cell", at(*SPEC, "preprocess", to="cell-crop")),
    ("cell", at(*SPEC, "cell", to={"finder": "other"})),
    ("crop_um", at(*SPEC, "crop_um", to=-1.0)),
    ("mean", at(*SPEC, "mean", to=[0.5])),
    ("mean", at(*SPEC, "mean", to=None)),
    ("std", at(*SPEC, "std", to=[0.5, 0.5, 0])),
    ("std", at(*SPEC, "std", to=["a", "b", "c"])),
    ("schema", at(*SPEC, "schema", to=99)),
    ("colour", at(*SPEC, "colour", to=7)),
    # The head.
    ("members", at("head", "members", to=0)),
    ("members", at("head", "members", to=10**9)),
    ("members", at("head", "members", to="2")),
    ("embedding_width", at("head", "embedding_width", to=10**9)),
    ("embedding_width", at("head", "embedding_width", to=-1)),
    ("hidden", at(*HEAD, "hidden", to=-32)),
    ("hidden", at(*HEAD, "hidden", to="32")),
    ("hidden", at(*HEAD, "hidden", to=10**40)),
    ("hidden", at(*HEAD, "hidden", to=[32])),
    ("pooling", at(*HEAD, "pooling", to="eval")),
    ("pooling", at(*HEAD, "pooling", to=3)),
    ("zero_start", at(*HEAD, "zero_start", to=1)),
    ("metadata_dropout", at(*HEAD, "metadata_dropout", to=1.5)),
    ("fancy", at(*HEAD, "fancy", to=1)),
    ("config", at("head", "config", to=[])),
    # The encoder of the metadata.
    ("encoder", at(*ENCODER, to=[])),
    ("encoder", at(*ENCODER, to={})),
    ("encoder", at(*ENCODER, "encoders", to=[])),
    ("encoders", at(*ENCODER, "encoders", to=[3])),
    ("encoders", at(*ENCODER, "encoders", 0, "kind", to="date")),
    ("encoders[0]", at(*ENCODER, "encoders", 0, "kind", to=[])),
    ("median", at(*ENCODER, "encoders", 0, "median", to="x")),
    ("median", at(*ENCODER, "encoders", 0, "median", to=None)),
    ("log", at(*ENCODER, "encoders", 0, "log", to="yes")),
    ("name", at(*ENCODER, "encoders", 0, to={"kind": "number"})),
    ("means", at(*ENCODER, "encoders", 0, "had_missing", to=True)),
    ("means", at(*ENCODER, "means", to={})),
    ("means", at(*ENCODER, "means", "age", to="x")),
    ("means", at(*ENCODER, "means", "more", to=1)),
    ("means", lambda config: reverse(config["head"]["encoder"], "means")),
    ("deviations", lambda config: reverse(config["head"]["encoder"], "deviations")),
    ("deviations", at(*ENCODER, "deviations", "age", to=0)),
    ("deviations", at(*ENCODER, "deviations", "age", to=-1)),
    ("deviations", at(*ENCODER, "deviations", to=[])),
    ("digests", at("digests", to=["model.safetensors"])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "change"), CHANGES, ids=[f"{place}-{name}" for place, (name, _) in enumerate(CHANGES)]
)
def test_each_value_that_cannot_be_is_named(
    field: str, change: Callable[[Any], None], tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    change_config(bundle, change)
    options = ("--features", tiny.features, "--output", tmp_path / "p.csv")
    done = command("predict", bundle, tiny.cohort_toml, *options)
    assert done.code == 3 and done.out == "", done
    assert field in done.err and "config.json" in done.err and "Traceback" not in done.err, done.err
    assert len(done.err) < 2000 and done.err.replace("\n", "").isprintable()
    assert not (tmp_path / "p.csv").exists()


def calibration_problems(tiny: Tiny, entries: int, kind: str, **changes: Any) -> list[str]:
    """Return what is wrong with so many entries of the calibration of an outcome without two classes."""
    bundle = ModelBundle.load(tiny.bundle)
    calibration = Calibration("outer", [HeldOutScores([], [], 0)] * entries)
    declared = {"number": {"target": "t"}, "survival": {"time": "t", "event": "e"}, "binary": {}}[kind]
    outcome = OutcomeRecord(kind, declared) if declared else None
    changes |= {"class_names": (), "class_counts": ()} if outcome else {}
    about = replace(bundle.about, outcome=outcome, calibration=calibration, **changes)
    config = BundleConfig(2, {}, head_record(bundle.head), about)
    return [line for line in config_problems(config) if "about.calibration" in line]


def test_a_calibration_has_the_entries_of_its_outcome(tiny: Tiny) -> None:
    assert not calibration_problems(tiny, 1, "number") and not calibration_problems(tiny, 2, "binary")
    (several,) = calibration_problems(tiny, 2, "number")
    assert several.endswith("has 2 entries instead of 1.")
    (survival,) = calibration_problems(tiny, 1, "survival")
    assert "must be absent: the outcome survival has no sets" in survival
    (finetuned,) = calibration_problems(tiny, 2, "binary", finetuned=FinetuneConfig("layer4"))
    assert "must be absent, since the backbone was fine-tuned" in finetuned


def test_a_foreign_column_that_is_not_counted_has_its_own_sentence(tiny: Tiny, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    change_config(bundle, at("about", "domain", "unreliable", to=["other", "sex"]))
    with pytest.raises(DataError, match=r"unreliable names other, which about\.columns") as caught:
        ModelBundle.load(bundle)
    assert "number columns" not in str(caught.value)


@pytest.mark.parametrize("name", ["encoders", "categories"])
def test_categories_must_be_different_words(name: str, tiny: Tiny, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")

    def change(config: Any) -> None:
        encoders = config["head"]["encoder"]["encoders"]
        (sex,) = (encoder for encoder in encoders if encoder["kind"] == "category")
        sex["categories"] = ["F", "F"] if name == "encoders" else [0, 1]

    change_config(bundle, change)
    with pytest.raises(DataError, match=rf"config\.json: head\.encoder: encoders.*{'categories'}"):
        ModelBundle.load(bundle)


@pytest.mark.parametrize("depth", [100, 900, 1100, 5000, 200_000])
@pytest.mark.parametrize("file", ["config.json", "scores.json"])
def test_deep_nesting_ends_in_a_sentence(
    file: str, depth: int, tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    text = (bundle / file).read_text()
    (bundle / file).write_text(text.replace("{", '{"more": ' + "[" * depth + "]" * depth + ",", 1))
    options = ("--features", tiny.features, "--output", tmp_path / "p.csv")
    done = command("predict", bundle, tiny.cohort_toml, *options)
    assert done.code == 3 and file in done.err and "Traceback" not in done.err


def test_numbers_that_json_does_not_have_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    for number in ("NaN", "Infinity", "1e999"):
        bundle = shutil.copytree(tiny.bundle, tmp_path / number)
        config = json.loads((bundle / "config.json").read_text())
        threshold = f'"threshold": {config["about"]["decision"]["threshold"]!r}'
        text = (bundle / "config.json").read_text()
        assert threshold in text
        (bundle / "config.json").write_text(text.replace(threshold, f'"threshold": {number}'))
        with pytest.raises(DataError, match=rf"config\.json.*{number} is not a finite number"):
            ModelBundle.load(bundle)
