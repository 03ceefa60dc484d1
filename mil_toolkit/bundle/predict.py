"""`predict`: probabilities, predictions and attention for all patients of a cohort."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mil_toolkit.bundle.bundle import ModelBundle, declared
from mil_toolkit.bundle.extrapolation import extrapolations
from mil_toolkit.bundle.files import BACKBONE
from mil_toolkit.bundle.membership import image_digests
from mil_toolkit.bundle.scale import scale_problems, unknown_scale
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.intervals import Table, scores_with_intervals
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.features.bags import PART
from mil_toolkit.features.cache import FeatureCache, named_cache
from mil_toolkit.features.extract import extract, tolerance
from mil_toolkit.features.spec import Spec, holds_spec, scale_of, spec_differences
from mil_toolkit.study.records import ColumnRecord
from mil_toolkit.study.tables import attention_table
from mil_toolkit.training.patients import Patients

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """Predictions for all patients of a cohort.

    table: `patient_id`, `probability`, `prediction` (0 or 1), `spread` (standard deviation over members), and
        `label` where any label is known
    attention: `patient_id`, `image`, `attention` (sums to one within each patient); None without images, and
        where it was not asked for
    validation: scores on the labelled patients that the model was not fitted on; None unless both classes are
        among them
    training: the same for the patients that it was, or may have been, fitted on; optimistic, since the model
        has seen their labels
    unknown: the same for all labelled patients, where the bundle does not say whom it was fitted on
    fitted_on: ids of the labelled patients that count for `training`; None where the bundle does not say
    """

    table: pd.DataFrame
    attention: pd.DataFrame | None
    validation: Scores | None = None
    training: Scores | None = None
    unknown: Scores | None = None
    fitted_on: tuple[str, ...] | None = None


def predict(
    bundle: ModelBundle,
    cohort: Cohort,
    cache: FeatureCache | None,
    attention: bool = True,
    any_scale: bool = False,
) -> Predictions:
    """Apply a bundle to all patients of a cohort.

    attention: return the attention too. It takes as much memory as the names of all images; all else is
        computed for a few patients at a time.
    any_scale: only warn of images of another scale than those that the model was fitted on

    Warns where the embeddings were computed in another precision or by another decoder than those of the
    training patients, where the scale of the images is unknown, and where metadata lie outside what these
    patients had (see `extrapolations`). Raises one DataError with all problems: metadata, features or a scale
    of images that differ from those the model was trained with, and patients without embeddings; or, before
    or after the model is applied, patients whose embeddings or probabilities are not finite.
    """
    problems = [*_column_problems(bundle, cohort), *_feature_problems(bundle, cohort, cache)]
    problems += [] if any_scale else scale_problems(bundle.about, cohort)
    if problems:
        raise DataError(problems)
    _warn_of_other_scales(bundle, cohort)
    _warn_of_other_embeddings(bundle, cohort, cache)
    patients = Patients.of(cohort, cache)
    for line in extrapolations(bundle, patients.metadata):
        logger.warning("%s", line)
    _check_embeddings(patients, cache)
    probability, spread, weights = bundle.probabilities(patients, attention)
    _check_results(patients, probability, spread)
    decided = (probability >= bundle.decision.threshold).astype(int)
    table = pd.DataFrame(
        {"patient_id": patients.ids, "probability": probability, "prediction": decided, "spread": spread}
    )
    known = patients.labels >= 0
    if known.any():
        table["label"] = pd.Series(patients.labels).where(known).astype("Int64")
    predictions = Predictions(table, attention_table(patients, weights))
    grouped = table if patients.groups is None else table.assign(group=patients.groups)
    return _scored(bundle, predictions, grouped[known], cache)


def _check_embeddings(patients: Patients, cache: FeatureCache | None) -> None:
    """Raise DataError for embeddings that are not finite; they would spoil other patients' results, too."""
    if patients.bags is None or cache is None:
        return
    rows = torch.arange(int(patients.bags.offsets[-1])).split(PART)
    finite = torch.cat([patients.bags.embeddings(part).isfinite().all(1) for part in rows]).numpy()
    bad = ~np.logical_and.reduceat(finite, patients.bags.offsets.numpy()[:-1])
    _refuse(patients, bad, f"has embeddings in {printable(cache.folder)} that are not finite numbers.")


def _check_results(patients: Patients, probability: np.ndarray, spread: np.ndarray) -> None:
    bad = ~(np.isfinite(probability) & np.isfinite(spread))
    _refuse(
        patients,
        bad,
        "has no prediction: the model computes a probability that is not a finite number. Its metadata or"
        " embeddings, or the bundle's tensors, are far outside the usual range.",
    )


def _refuse(patients: Patients, bad: np.ndarray, reason: str) -> None:
    """Raise DataError that names the patients at the places where `bad` (B,) is true."""
    if bad.any():
        named = [printable(patients.ids[place]) for place in np.flatnonzero(bad)]
        raise DataError([f"patient {patient} {reason}" for patient in named])


def _scored(
    bundle: ModelBundle, predictions: Predictions, labelled: pd.DataFrame, cache: FeatureCache | None
) -> Predictions:
    """Add scores on the labelled patients, whose predictions are given with their groups, if any."""
    marks = bundle.about.marks
    if marks is None:
        return replace(predictions, unknown=_scores(bundle, labelled))
    ids = list(labelled["patient_id"])
    fitted = marks.recognise(ids, image_digests(cache, ids))
    return replace(
        predictions,
        validation=_scores(bundle, labelled[~fitted]),
        training=_scores(bundle, labelled[fitted]),
        fitted_on=tuple(labelled["patient_id"][fitted]),
    )


def _scores(bundle: ModelBundle, predictions: pd.DataFrame) -> Scores | None:
    """Return scores of labelled patients, at the prevalence that the study was given."""
    if predictions.empty or predictions["label"].nunique() < 2:
        return None
    one_model = predictions.assign(repeat=1, fold=1)
    return scores_with_intervals(Table.of(one_model, bundle.about.procedure.prevalence))


def _column_problems(bundle: ModelBundle, cohort: Cohort) -> list[str]:
    expected = {column.name: column for column in bundle.about.columns}
    present = {column.name: declared(column) for column in cohort.columns}
    return [
        problem
        for name in sorted(expected.keys() | present.keys())
        for problem in _column_differences(name, expected.get(name), present.get(name), cohort.source)
    ]


def _column_differences(
    name: str, expected: ColumnRecord | None, present: ColumnRecord | None, source: Path
) -> list[str]:
    """Return how a metadata column of a cohort differs from the one the model was trained with."""
    section = f"[metadata.{printable(name)}]"
    if expected is None:
        return [f"{section} is unknown to the model. Remove it from {source}."]
    if present is None:
        keys = {key: value for key, value in asdict(expected).items() if value is not None and key != "name"}
        trained = ", ".join(
            f"{key} = {printable(json.dumps(value, ensure_ascii=False))}" for key, value in keys.items()
        )
        return [f"{section} is missing in {source}. The model was trained with {trained}."]
    values = asdict(present)
    return [
        f"{section} {key} is {values[key] or 'not given'} in {source}; the model was trained with"
        f" {printable(value or 'none')}."
        for key, value in asdict(expected).items()
        if values[key] != value
    ]


def _feature_problems(bundle: ModelBundle, cohort: Cohort, cache: FeatureCache | None) -> list[str]:
    trained = bundle.about.features
    if trained is None:
        advice = "The model was trained without images: use --features none."
        return [] if cache is None else [advice]
    if cache is None:
        return [f"The model was trained with features {printable(trained.name)}."]
    lines = _spec_problems(cache.spec, trained.spec)
    if lines and bundle.backbone is not None:
        advice = f"Leave out --features, or extract with --weights and the bundle's {BACKBONE}."
        lines.append(f"Its backbone was fine-tuned. {advice}")
    if lines:
        return [f"{cache.folder} holds other features than the model was trained with:", *lines]
    return cache.absent(cohort.patient_ids)


def _spec_problems(spec: Spec, trained: Spec) -> list[str]:
    """Return the differences of two specs.

    The origin of the same weights does not count as one, nor the pixels of a window of the same micrometres.
    """
    same = spec["weight_digest"] is not None and spec["weight_digest"] == trained["weight_digest"]
    if same:
        spec = {**spec, "weights": trained["weights"], "seed": trained["seed"]}
    if "crop_um" in spec and spec["crop_um"] == trained.get("crop_um"):
        spec = {**spec, "crop": trained["crop"]}
    return spec_differences(spec, trained)


def _warn_of_other_scales(bundle: ModelBundle, cohort: Cohort) -> None:
    others, unknown = scale_problems(bundle.about, cohort), unknown_scale(bundle.about, cohort)
    for line in (*others[:-1], *([unknown] if unknown else [])):  # without the advice, which was taken
        logger.warning("%s", line)


def _warn_of_other_embeddings(bundle: ModelBundle, cohort: Cohort, cache: FeatureCache | None) -> None:
    if cache is None or bundle.about.features is None:
        return
    trained, present = bundle.about.features.recorded, cache.recorded(cohort.patient_ids)
    if set(present) - set(trained):
        logger.warning(
            "The embeddings were computed in %s, those that the model was fitted on in %s. Embeddings of the"
            " same image differ little: %s.",
            printable(", ".join(present)),
            printable(", ".join(trained)),
            tolerance([*present, *trained]),
        )


def extract_as_trained(
    bundle: ModelBundle,
    cohort: Cohort,
    root: Path = Path("cache"),
    device: str = "auto",
    weights: Path | None = None,
    any_scale: bool = False,
    batch_size: int | None = None,
) -> FeatureCache | None:
    """Embed a cohort's images exactly as the training images were; existing embeddings are reused.

    weights: checkpoint of the backbone, see `ModelBundle.build_backbone`
    any_scale: see `predict`; batch_size: see `extract`
    Returns None for a model that does not look at images. Raises DataError for patients without images and,
    unless `any_scale`, with images of another scale; and the errors of `ModelBundle.backbone_source` and
    `build_backbone` (before any image is embedded) and of `extract`.
    """
    trained = bundle.about.features
    if trained is None:
        return None
    config = _extraction_config(trained.spec, weights)
    _check_images(cohort)
    problems = [] if any_scale else scale_problems(bundle.about, cohort)
    if problems:
        raise DataError(problems)
    backbone = bundle.backbone_source(root, weights)
    colour = trained.spec.get("colour")
    done = extract(
        cohort, config, root, device=device, batch_size=batch_size, backbone=backbone, colour=colour
    )
    return FeatureCache.open(done.folder)


def open_as_trained(bundle: ModelBundle, cohort: Cohort, root: Path = Path("cache")) -> FeatureCache:
    """Open the cohort's cache of the features that the model was fitted on.

    Raises UsageError if there is none, or for a model that does not look at images.
    """
    features = bundle.about.features
    if features is None:
        raise UsageError("This model does not look at images: it has no features.")
    folder = named_cache(cohort.name, features.name, root)
    if not holds_spec(folder):
        raise UsageError(
            f"The model was fitted on the features {printable(features.name)}, and {printable(folder)} does"
            " not exist. Embed the images with the tool that made them, run mil-cache import, and name the"
            " resulting folder with --features."
        )
    return FeatureCache.open(folder)


def _extraction_config(spec: Spec, weights: Path | None) -> ExtractionConfig:
    origin = spec["weights"] if weights is None else str(weights)
    crop_um = spec.get("crop_um")
    crop = spec["crop"] if crop_um is None else 0  # follows from the resolution of the cohort
    shown = (crop, spec["preprocess"], crop_um, scale_of(spec))
    return ExtractionConfig(spec["backbone"], origin, spec["image_size"], *shown)


def _check_images(cohort: Cohort) -> None:
    absent = [patient for patient in cohort.patient_ids if patient not in cohort.images]
    if absent:
        raise DataError([f"patient {printable(patient)} has no images." for patient in absent])


def check_submission(cohort: Cohort) -> None:
    """Raise DataError if a class has several words: a challenge file can only hold one."""
    keys = dict(zip(("negative", "positive"), cohort.class_words, strict=True))
    several = [f"{key} has {', '.join(words)}" for key, words in keys.items() if len(words) > 1]
    if several:
        raise DataError(
            f"{cohort.source}: a challenge file needs one word for each class, but {' and '.join(several)}."
            " Use a cohort.toml that gives each class the one word that the challenge expects."
        )


def write_submission(
    path: Path, predictions: pd.DataFrame, cohort: Cohort, header: Sequence[str] = ("ID", "LABEL")
) -> int:
    """Publish a challenge file with all unlabelled patients, each once; return their number.

    Predictions are written as the class names of the cohort's table. Raises DataError where no patient is
    unlabelled, and where a class has several words.
    """
    check_submission(cohort)
    unlabelled = cohort.unlabelled().patient_ids
    if not unlabelled:
        raise DataError(f"{cohort.source}: no patient is unlabelled, so the submission would be empty.")
    decided = dict(zip(predictions["patient_id"], predictions["prediction"], strict=True))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([header, *([patient, cohort.class_names[decided[patient]]] for patient in unlabelled)])
    publish(path, file.getvalue().encode())
    return len(unlabelled)
