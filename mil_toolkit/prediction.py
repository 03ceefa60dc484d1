# Floor 3.7: applying a bundle to a cohort.
"""`predict`: probabilities, predictions and attention for every patient of a cohort."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.backbones import build_backbone
from mil_toolkit.bundle import BACKBONE, ModelBundle
from mil_toolkit.cohort import Cohort
from mil_toolkit.errors import DataError, UsageError
from mil_toolkit.extraction import extract
from mil_toolkit.features import FeatureCache, spec_differences
from mil_toolkit.files import publish
from mil_toolkit.fitting import declared, fingerprints
from mil_toolkit.hparams import ExtractionConfig
from mil_toolkit.inputs import Patients
from mil_toolkit.metrics import score_all


@dataclass(frozen=True)
class Predictions:
    """Predictions for every patient of a cohort.

    table: `patient_id`, `probability`, `prediction` (0 or 1), `spread` (standard deviation over members), and
        `label` where any is known
    attention: `patient_id`, `image`, `attention` (summing to one in each patient), or None without images
    validation: every metric on the labelled patients that the model was not fitted on, or None without both classes
    training: the same on those that it was fitted on: no evidence, since the model knows them
    """

    table: pd.DataFrame
    attention: pd.DataFrame | None
    validation: Mapping[str, float] | None
    training: Mapping[str, float] | None


def predict(bundle: ModelBundle, cohort: Cohort, cache: FeatureCache | None) -> Predictions:
    """Apply a bundle to all patients of a cohort.

    Raises DataError where the cohort's metadata or the cache are not what the model was trained with, and for
    patients without embeddings.
    """
    _check_columns(bundle, cohort)
    _check_features(bundle, cache)
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
    scores = [
        _scores(bundle, patients.labels[part], probability[part])
        for part in (known & ~fitted, known & fitted)
    ]
    return Predictions(table, _attention_table(patients, attention), *scores)


def _scores(bundle: ModelBundle, labels: np.ndarray, probability: np.ndarray) -> dict[str, float] | None:
    if len(np.unique(labels)) < 2:
        return None
    return {"patients": len(labels), **score_all(labels, probability, bundle.decision.threshold)}


def _check_columns(bundle: ModelBundle, cohort: Cohort) -> None:
    expected = {column["name"]: column for column in bundle.about["columns"]}
    found = {column.name: declared(column) for column in cohort.columns}
    problems = [
        f"[metadata.{name}]: the model was trained with {expected.get(name)}, {cohort.source} has {found.get(name)}."
        for name in expected.keys() | found.keys()
        if expected.get(name) != found.get(name)
    ]
    if problems:
        raise DataError(sorted(problems))


def _check_features(bundle: ModelBundle, cache: FeatureCache | None) -> None:
    trained = bundle.about["features"]
    if (trained is None) != (cache is None):
        wanted = "no images: use --features none" if trained is None else f"features {trained['name']}"
        raise DataError(f"The model was trained with {wanted}.")
    if trained is not None and cache is not None and cache.spec != trained["spec"]:
        lines = spec_differences(cache.spec, trained["spec"])
        if bundle.backbone is not None:
            lines.append(
                f"Its backbone was trained with it. Leave --features out, or extract with --weights and the bundle's {BACKBONE}."
            )
        raise DataError([f"{cache.folder} holds other features than the model was trained with:", *lines])


def _attention_table(patients: Patients, attention: np.ndarray | None) -> pd.DataFrame | None:
    if attention is None or patients.bags is None:
        return None
    ids = np.repeat(patients.ids, patients.bags.sizes.numpy())
    return pd.DataFrame({"patient_id": ids, "image": patients.bags.image_names, "attention": attention})


def extract_as_trained(
    bundle: ModelBundle, cohort: Cohort, root: Path = Path("cache"), device: str = "auto"
) -> FeatureCache | None:
    """Embed a cohort's images exactly as the model's training images were; only what is missing is computed.

    A backbone that was trained with the model comes from the bundle.

    Raises UsageError where the model's weights came from a file, which the bundle does not hold.
    """
    trained = bundle.about["features"]
    if trained is None:
        return None
    names = ("backbone", "weights", "image_size", "crop", "preprocess")
    config = ExtractionConfig(**{name: trained["spec"][name] for name in names})
    if bundle.backbone is not None:
        backbone = build_backbone(config.backbone, bundle.backbone)
        return FeatureCache.open(extract(cohort, config, root, device=device, backbone=backbone).folder)
    if config.weights not in ("imagenet", "random"):
        raise UsageError(
            f"The model was trained on features of the weights {config.weights}. Run mil-extract with"
            " --weights PATH and give its folder as --features."
        )
    return FeatureCache.open(extract(cohort, config, root, device=device).folder)


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
