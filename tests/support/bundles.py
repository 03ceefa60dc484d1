"""Descriptions and scores of bundles, for tests that make up their own."""

from dataclasses import replace
from typing import cast

from mil_toolkit.bundle.records import About, BundleFeatures
from mil_toolkit.config import StudyConfig
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
    fitted_on=["0123456789abcdef"],
    class_names=("reactive", "tumoral"),
    columns=[ColumnRecord(name, "number", None, None) for name in ("age", "sex")],
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
    features = ABOUT.features
    assert features is not None
    return replace(ABOUT, features=replace(features, spec=cast(Spec, {**SPEC, **changes})))
