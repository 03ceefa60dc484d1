# Floor 4: the demo: a synthetic cohort through all stages, by the functions that the commands call.
"""`run_demo`: from nothing to a fitted model and its predictions, without data and without a network."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from mil_toolkit.assessment import publish_table
from mil_toolkit.backbones import build_backbone
from mil_toolkit.cohort import read_cohort
from mil_toolkit.errors import UsageError
from mil_toolkit.extraction import extract
from mil_toolkit.features import FeatureCache
from mil_toolkit.fitting import fit
from mil_toolkit.hparams import ExtractionConfig, StudyConfig
from mil_toolkit.prediction import predict, write_submission
from mil_toolkit.synthetic import draw_cohort
from mil_toolkit.tuning import Tuned, tune

EXTRACTION = ExtractionConfig(image_size=96)
STUDY = StudyConfig(trials=5, outer_folds=3, folds=3, members=3)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demo:
    """What the demo made, and where it is."""

    cohort: Path
    features: Path
    tuned: Tuned
    bundle: Path
    predictions: Path
    submission: Path
    attention: Path


def run_demo(output: Path, study: StudyConfig = STUDY, device: str = "auto") -> Demo:
    """Draw a synthetic cohort into `output`, then extract, tune, fit and predict there.

    Raises UsageError where `output` is already there and not empty.
    """
    cohort_toml = draw_cohort(output)
    cohort = read_cohort(cohort_toml)
    features = extract(cohort, _with_weights(EXTRACTION), output / "cache", device=device).folder
    cache = FeatureCache.open(features)
    tuned = tune(cohort, cache, output / "studies" / "demo", study, device)
    bundle = tuned.study.folder / "model"
    predicted = predict(fit(cohort, cache, tuned.study.folder, bundle, device), cohort, cache)
    demo = Demo(
        cohort_toml,
        features,
        tuned,
        bundle,
        output / "predictions.csv",
        output / "submission.csv",
        output / "attention.csv",
    )
    publish_table(demo.predictions, predicted.table)
    write_submission(demo.submission, predicted.table, cohort)
    if predicted.attention is not None:
        publish_table(demo.attention, predicted.attention)
    return demo


def _with_weights(config: ExtractionConfig) -> ExtractionConfig:
    """ImageNet weights where they can be had, else seeded random ones: the demo alone may fall back."""
    try:
        build_backbone(config.backbone, config.weights)
    except UsageError:
        logger.info("No ImageNet weights for %s here: going on with seeded random ones.", config.backbone)
        return replace(config, weights="random")
    return config
