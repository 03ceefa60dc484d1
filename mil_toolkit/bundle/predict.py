"""`predict`: probabilities, predictions and attention for every patient of a cohort."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mil_toolkit.bundle.bundle import BACKBONE, ModelBundle, declared, fingerprints
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import publish, shown
from mil_toolkit.evaluation.intervals import Scores, Table, scores_with_intervals
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import TOLERANCE, extract
from mil_toolkit.features.spec import Spec, spec_differences
from mil_toolkit.study.tables import attention_table
from mil_toolkit.training.patients import Patients

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """Predictions for every patient of a cohort.

    table: `patient_id`, `probability`, `prediction` (0 or 1), `spread` (standard deviation over members), and
        `label` where any is known
    attention: `patient_id`, `image`, `attention` (summing to one in each patient), or None without images
    validation: every metric, with its interval, on the labelled patients that the model was not fitted on; None where
        these are not of both classes
    training: the same on those that it was fitted on: no evidence, since the model knows them
    """

    table: pd.DataFrame
    attention: pd.DataFrame | None
    validation: Scores | None
    training: Scores | None


def predict(bundle: ModelBundle, cohort: Cohort, cache: FeatureCache | None) -> Predictions:
    """Apply a bundle to all patients of a cohort.

    Raises DataError where the cohort's metadata or the cache are not what the model was trained with, and for
    patients without embeddings; all of it in one error. Warns where the embeddings were computed in another precision
    or by another decoder.
    """
    problems = [*_column_problems(bundle, cohort), *_feature_problems(bundle, cohort, cache)]
    if problems:
        raise DataError(problems)
    _tell_other_embeddings(bundle, cohort, cache)
    patients = Patients.of(cohort, cache)
    probability, spread, attention = bundle.probabilities(patients)
    decided = (probability >= bundle.decision.threshold).astype(int)
    table = pd.DataFrame(
        {"patient_id": patients.ids, "probability": probability, "prediction": decided, "spread": spread}
    )
    known = patients.labels >= 0
    if known.any():
        table["label"] = pd.Series(patients.labels).where(known).astype("Int64")
    fitted = np.isin(fingerprints(patients), bundle.about["fitted_on"])
    scores = [_scores(bundle, table[part]) for part in (known & ~fitted, known & fitted)]
    return Predictions(table, attention_table(patients, attention), *scores)


def _scores(bundle: ModelBundle, predictions: pd.DataFrame) -> Scores | None:
    """Scores of some labelled patients, at the prevalence that the study was told."""
    if predictions.empty or predictions["label"].nunique() < 2:
        return None
    one_model = predictions.assign(repeat=1, fold=1)
    return scores_with_intervals(Table.of(one_model, bundle.about["procedure"]["prevalence"]))


def _column_problems(bundle: ModelBundle, cohort: Cohort) -> list[str]:
    expected = {column["name"]: column for column in bundle.about["columns"]}
    found = {column.name: declared(column) for column in cohort.columns}
    return [
        problem
        for name in sorted(expected.keys() | found.keys())
        for problem in _differing(f"[metadata.{name}]", expected.get(name), found.get(name), cohort.source)
    ]


def _differing(
    section: str, expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None, source: Path
) -> list[str]:
    """What one metadata column, as the model knows it (None: not at all), differs in from the cohort's."""
    if expected is None:
        return [f"{section} is unknown to the model. Take it out of {source}."]
    if found is None:
        given = {key: value for key, value in expected.items() if value is not None and key != "name"}
        told = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in given.items())
        return [f"{section} is missing in {source}. The model was trained with {told}."]
    return [
        f"{section} {key} is {found[key] or 'not given'} in {source}; the model was trained with {value or 'none'}."
        for key, value in expected.items()
        if found[key] != value
    ]


def _feature_problems(bundle: ModelBundle, cohort: Cohort, cache: FeatureCache | None) -> list[str]:
    trained = bundle.about["features"]
    if trained is None or cache is None:
        wanted = "no images: use --features none" if trained is None else f"features {trained['name']}"
        return [f"The model was trained with {wanted}."] if (trained is None) != (cache is None) else []
    lines = _differences(cache.spec, trained["spec"])
    if lines and bundle.backbone is not None:
        advice = f"Leave --features out, or extract with --weights and the bundle's {BACKBONE}."
        lines.append(f"Its backbone was trained with it. {advice}")
    if lines:
        return [f"{cache.folder} holds other features than the model was trained with:", *lines]
    return cache.absent(cohort.patient_ids)


def _differences(spec: Spec, trained: Spec) -> list[str]:
    """In what a spec differs from the model's; where the weights came from is no difference if they are the same."""
    same = spec["weight_digest"] is not None and spec["weight_digest"] == trained["weight_digest"]
    if same:
        spec = {**spec, "weights": trained["weights"], "seed": trained["seed"]}
    return spec_differences(spec, trained)


def _tell_other_embeddings(bundle: ModelBundle, cohort: Cohort, cache: FeatureCache | None) -> None:
    if cache is None:
        return
    trained, found = bundle.about["features"]["recorded"], cache.recorded(cohort.patient_ids)
    if set(found) - set(trained):
        logger.warning(
            "The embeddings were computed in %s, those that the model was fitted on in %s. The same image's differ"
            " little: %s.",
            ", ".join(found),
            ", ".join(trained),
            TOLERANCE,
        )


def extract_as_trained(
    bundle: ModelBundle,
    cohort: Cohort,
    root: Path = Path("cache"),
    device: str = "auto",
    weights: Path | None = None,
) -> FeatureCache | None:
    """Embed a cohort's images exactly as the model's training images were; only what is missing is computed.

    weights: checkpoint of the backbone, see `ModelBundle.build_backbone`
    Raises DataError for patients without images, and as `ModelBundle.build_backbone` (before anything is embedded) and
    `extract` do.
    """
    trained = bundle.about["features"]
    if trained is None:
        return None
    names = ("backbone", "weights", "image_size", "crop", "preprocess")
    config = ExtractionConfig(**{name: trained["spec"][name] for name in names})
    if weights is not None:
        config = replace(config, weights=str(weights))
    _check_images(cohort)
    backbone = bundle.build_backbone(weights)
    return FeatureCache.open(extract(cohort, config, root, device=device, backbone=backbone).folder)


def _check_images(cohort: Cohort) -> None:
    without = [patient for patient in cohort.patient_ids if patient not in cohort.images]
    if without:
        raise DataError([f"patient {shown(patient)} has no images." for patient in without])


def write_submission(
    path: Path, predictions: pd.DataFrame, cohort: Cohort, header: Sequence[str] = ("ID", "LABEL")
) -> int:
    """Publish a challenge file with every unlabelled patient exactly once; returns how many.

    The predictions are written with the table's words for the classes. Raises DataError where the cohort has no
    unlabelled patient.
    """
    unlabelled = cohort.unlabelled().patient_ids
    if not unlabelled:
        raise DataError(f"{cohort.source}: no patient is unlabelled, so a submission would be empty.")
    decided = dict(zip(predictions["patient_id"], predictions["prediction"], strict=True))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([header, *([patient, cohort.class_names[decided[patient]]] for patient in unlabelled)])
    publish(path, file.getvalue().encode())
    return len(unlabelled)
