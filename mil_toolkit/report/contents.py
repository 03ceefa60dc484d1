"""`Contents`: a study folder as a report sees it. What an older study lacks is left out, never guessed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config import parse_settings
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import read_json
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.folder import PATIENTS, SOURCES, Study, epochs_of, read_epochs
from mil_toolkit.study.tables import ATTENTION, outer_attention, read_predictions

OUTER, VALIDATION = "outer", "validation"
Paths = Mapping[tuple[str, str], Path]  # of images, by patient and name


@dataclass(frozen=True)
class Walk:
    """The chosen trial of a search: its scores after each epoch, and the epoch that was chosen."""

    name: str
    epoch: int
    epochs: pd.DataFrame


@dataclass(frozen=True)
class Contents:
    """A finished study with what stands in its folder.

    patients: of patients.json, None in studies of older versions; attention: `patient_id`, `image`, `attention`,
    averaged over repeats, by models that never saw the patient; None where there is none
    ablation, model: of ablation/scores.json and model/config.json where they stand
    ablation_walks: what the full model and the variants of other features chose in each outer fold
    """

    study: Study
    scores: Mapping[str, Any]
    predictions: pd.DataFrame
    patients: Mapping[str, Any] | None
    sources: Mapping[str, Any]
    attention: pd.DataFrame | None
    audit: Sequence[Mapping[str, Any]]
    trials: pd.DataFrame
    walks: Sequence[Walk]
    ablation: Mapping[str, Any] | None
    model: Mapping[str, Any] | None
    ablation_walks: Mapping[str, Sequence[Walk]]

    @property
    def honest(self) -> bool:
        """Whether there are outer folds, so that the predictions chose nothing."""
        return self.scores["outer"] is not None

    @cached_property
    def table(self) -> Table:
        """The predictions that the report is about: the outer ones, else those of the validation."""
        return Table.of(self.predictions, self.study.config.prevalence)

    @property
    def class_names(self) -> tuple[str, str]:
        """What class 0 and class 1 are called."""
        words = self.patients["class_names"] if self.patients else ("0", "1")
        kinds = zip(("negative", "positive"), words, strict=True)
        negative, positive = (f"{kind} ({word})" if len(word) < 3 else word for kind, word in kinds)
        return negative, positive

    @property
    def preprocess(self) -> str | None:
        """What was done to the images before the network saw them; None without images."""
        features = self.study.described["features"]
        return features and features["spec"].get("preprocess", "none")


def read_contents(folder: Path) -> Contents:
    """Read a study folder; raises DataError where there is none, it has not ended or a file is broken."""
    study = Study.open(folder)
    scores = read_json(folder / "scores.json")
    honest = scores["outer"] is not None
    return Contents(
        study,
        scores,
        read_predictions(folder / ("predictions.csv" if honest else "out_of_fold.csv")),
        _json_or_none(folder / PATIENTS),
        _json_or_none(folder / SOURCES) or {},
        _attention(folder, honest),
        _json_or_none(folder / "audit.json") or [],
        pd.read_csv(folder / "trials.csv", dtype=str, keep_default_na=False),
        [
            _walk(each)
            for each in (*sorted((folder / "outer").glob("*")), folder)
            if (each / "best.json").exists()
        ],
        ablation := _json_or_none(folder / "ablation" / "scores.json"),
        _json_or_none(folder / "model" / "config.json"),
        {name: _variant_walks(folder, ablation, name) for name in _of_features(ablation)},
    )


def _of_features(ablation: Mapping[str, Any] | None) -> list[str]:
    """The full model and the variants that differ from it in the features alone, where there are such."""
    others = (
        []
        if ablation is None
        else [name for name in ablation["features"][1:] if name in ablation["variants"]]
    )
    return ["full", *others] if others else []


def _variant_walks(folder: Path, ablation: Mapping[str, Any], name: str) -> list[Walk]:
    walks = []
    for fold in ablation["variants"][name]["folds"]:
        search = f"repeat{fold['repeat']}-fold{fold['fold']}"
        path = folder / "ablation" / "epochs" / name / f"{search}.jsonl"
        walks.append(Walk(search, fold["epoch"], _epochs(path)))
    return walks


def _json_or_none(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _attention(folder: Path, honest: bool) -> pd.DataFrame | None:
    """Averaged over repeats; it still sums to one in each patient."""
    if honest:
        table = outer_attention(folder)
    else:
        table = read_predictions(folder / ATTENTION) if (folder / ATTENTION).exists() else None
    if table is None:
        return None
    means = table.groupby(["patient_id", "image"], sort=False)["attention"].mean()
    return means.reset_index()


def _walk(folder: Path) -> Walk:
    best = read_json(folder / "best.json")
    name = folder.name if folder.parent.name == "outer" else "final"
    return Walk(name, best["epoch"], _epochs(epochs_of(folder, best["number"])))


def _epochs(path: Path) -> pd.DataFrame:
    return pd.DataFrame(read_epochs(path) if path.exists() else [{"epoch": 0}])


def parameters(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Each trial's parameters, as HeadConfig has them; those without effect in it are left out."""
    names = list(trials.columns[3:])
    found = []
    for row in trials[names].to_dict("records"):
        settings = parse_settings([f"{name}={value}" for name, value in row.items() if value != ""])
        found.append({name: values[0] for name, values in settings.items()})
    return found


def image_paths(sources: Mapping[str, Any]) -> tuple[Paths, str | None]:
    """Where the cohort's images lie, and why they cannot be shown where they cannot be reached."""
    if not sources:
        return {}, "The study was made by an older version, which did not keep where its images were."
    logger = logging.getLogger("mil_toolkit.cohort")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what is left out of the folders was told when they were extracted
    try:
        cohort = read_cohort(Path(sources["working_folder"]) / sources["cohort"])
    except DataError as error:
        count = len(error.problems)
        more = f" (and {count_of(count - 1, 'more problem')})" if count > 1 else ""
        return {}, f"{error.problems[0]}{more}"
    finally:
        logger.setLevel(level)
    pairs = (
        ((patient, name), path)
        for patient in cohort.images
        for name, path in zip(cohort.image_names[patient], cohort.images[patient], strict=True)
    )
    return dict(pairs), None


def image_digests(sources: Mapping[str, Any], patient_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """SHA-256 of the content that each image of the study's features had; empty where they cannot be reached."""
    if not sources.get("features"):
        return {}
    try:
        bags = FeatureCache.open(Path(sources["working_folder"]) / sources["features"]).winners(patient_ids)
    except DataError:
        return {}
    pairs = zip(patient_ids, bags, strict=True)
    return {(patient, image.name): image.digest.hex() for patient, bag in pairs for image in bag.images}


def values_of(patients: Mapping[str, Any], name: str) -> list[Any]:
    """A metadata column of patients.json, None where missing."""
    return [each["metadata"][name] for each in patients["patients"]]


def labels_of(patients: Mapping[str, Any]) -> np.ndarray:
    """The labels of patients.json: (n,)."""
    return np.array([each["label"] for each in patients["patients"]])
