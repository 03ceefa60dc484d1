"""Descriptions and scores of bundles, for tests that make up their own, and changes to bundles on disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from mil_toolkit.bundle.membership import SCRYPT, TrainingMarks
from mil_toolkit.bundle.records import About, BundleFeatures
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.files import digest_file, digest_json
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.records import Score
from mil_toolkit.features.spec import Spec
from mil_toolkit.study.records import ColumnRecord, StudyScores

SPEC: Spec = {
    "schema": 1,
    "backbone": "resnet34",
    "weights": "imagenet",
    "seed": None,
    "weight_digest": "0f",
    "width": 6,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "image_size": 224,
    "crop": 0,
    "preprocess": "none",
}
ABOUT = About(
    study="first",
    cohort="tiny",
    patients=12,
    class_counts=(6, 6),
    images=34,
    fitted_on=TrainingMarks("0f" * 16, SCRYPT, [f"{number:032x}" for number in range(12)], ["ab" * 16]),
    class_names=("reactive", "tumoral"),
    columns=[ColumnRecord("age", "number", None, None), ColumnRecord("sex", "category", None, None)],
    features=BundleFeatures("resnet34-imagenet", SPEC, ["float32 with pillow 12"], "1e"),
    procedure=StudyConfig(),
    epoch=2,
    decision=Decision(slope=0.8, intercept=-0.1, threshold=0.4),
    versions={"mil_toolkit": "0.1.0"},
)
SCORES = StudyScores(
    epoch=2,
    training=None,
    inner={name: Score(0.875, 0.75, 0.9375, patients=12, repeats=1) for name in METRICS},
)


def about_spec(**changes: object) -> About:
    """The description of a model on features of another spec."""
    return replace(ABOUT, features=replace(ABOUT.views[0], spec=cast(Spec, {**SPEC, **changes})))


Change = Callable[[Any], object]


def change_config(folder: Path, change: Change) -> None:
    """Change the config.json of a bundle, and seal it again: all digests are right."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    seal(folder, config)


def change_scores(folder: Path, change: Change) -> None:
    """Change the scores.json of a bundle, and seal it again."""
    scores = json.loads((folder / "scores.json").read_text())
    change(scores)
    replace_file(folder, "scores.json", json.dumps(scores).encode())


def change_tensors(folder: Path, change: Change, name: str = "model.safetensors") -> None:
    """Change the tensors of a bundle, a mapping by name, and seal it again."""
    tensors: dict[str, torch.Tensor] = load_file(folder / name)
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    replace_file(folder, name, (folder / name).read_bytes())


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a bundle, and seal it again."""
    (folder / name).write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    config["digests"][name] = digest_file(folder / name)
    seal(folder, config)


def seal(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json with its digest."""
    config.pop("digest", None)
    (folder / "config.json").write_text(json.dumps({**config, "digest": digest_json(config)}))
