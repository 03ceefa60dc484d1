"""`Contents`: everything of a study folder that a report shows. What older studies lack is left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from mil_toolkit.bundle.files import CONFIG
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import DataError, MilError
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import StoredBag
from mil_toolkit.report.shown import shown_places
from mil_toolkit.study.by_outcome import METADATA
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.folder import SearchFolder, Study, read_epochs
from mil_toolkit.study.plan import fold_name
from mil_toolkit.study.records import (
    AblationScores,
    Best,
    Finding,
    LearningCurve,
    PatientsRecord,
    Sources,
    StudyScores,
)
from mil_toolkit.study.tables import (
    attention_parts,
    joined_attention,
    outer_attention_parts,
    read_predictions,
    read_trials,
)
from mil_toolkit.study.verification import verify, verify_ablation

FULL = "full"  # the ablation's variant without a change
Key = tuple[str, str]  # patient and image, as stored


@dataclass(frozen=True)
class TrainingCurve:
    """The chosen trial of a search: its scores, a row for each epoch, and the epoch that was chosen."""

    search: str
    epoch: int
    scores: pd.DataFrame


@dataclass(frozen=True)
class Contents:
    """A finished study with the content of its folder.

    predictions: on held-out patients, of the outer folds or, without these, of the inner folds
    patients, sources: None in studies of older versions
    attention: the columns of `attention_table`, averaged over repeats, by models that did not see the
        patient, of the patients whose images are shown (see `shown_places`); None where there is none
    curves: of every search; ablation_curves: of every outer fold, for the full model and the variants with
        other features
    learning_curve: scores against the number of training patients; None where it was not asked for
    metadata: outer predictions of the baseline on metadata only; None where there is none, and in studies of
        older versions
    fitted: whether the folder holds a bundle
    """

    study: Study
    best: Best
    scores: StudyScores
    predictions: pd.DataFrame
    patients: PatientsRecord | None
    sources: Sources | None
    attention: pd.DataFrame | None
    findings: Sequence[Finding]
    canary: Canary | None
    trials: pd.DataFrame
    curves: Sequence[TrainingCurve]
    ablation: AblationScores | None
    ablation_curves: Mapping[str, Sequence[TrainingCurve]]
    learning_curve: LearningCurve | None
    metadata: pd.DataFrame | None
    fitted: bool

    @property
    def nested(self) -> bool:
        """Whether there are outer folds, so that the predictions are on held-out patients."""
        return self.scores.outer is not None

    @property
    def primary_metric(self) -> str:
        """The metric that carries the verdict."""
        return self.study.config.primary_metric

    @property
    def own_scores(self) -> Scores:
        """The scores that the report is about: outer or, without outer folds, validation."""
        return self.scores.outer or self.scores.inner

    @cached_property
    def table(self) -> Table:
        """The predictions as arrays."""
        return self.study.table(self.predictions)

    @cached_property
    def metadata_table(self) -> Table | None:
        """The outer predictions of the baseline on metadata only, of the same patients as `table`."""
        if self.metadata is None or not self.nested:
            return None
        table = self.study.table(self.metadata)
        return table.select(self.table.patient_ids)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; short ones are explained where the kind of outcome has words for them."""
        outcome = self.study.outcome
        names = self.patients.class_names if self.patients else outcome.class_names
        if not outcome.fixed_classes:
            return names
        return tuple(_explained(outcome.stratum_names[number], name) for number, name in enumerate(names))

    @property
    def uses_images(self) -> bool:
        """Whether the study has features."""
        return bool(self.study.description.all_features)


def _explained(kind: str, name: str) -> str:
    return f"{kind} ({name})" if len(name) < 3 else name


def read_contents(folder: Path, scores: StudyScores | None = None) -> Contents:
    """Read a study folder; raises DataError where it is not a finished study or a file cannot be read.

    scores: what `verify` returned for this study; None to verify it
    """
    study = Study.open(folder)
    scores, ablation = scores or verify(study), study.read_ablation()
    if ablation is not None:
        verify_ablation(study, ablation)
    nested = scores.outer is not None
    predictions = read_predictions(study.final.predictions if nested else study.final.out_of_fold)
    return Contents(
        study=study,
        best=study.final.read_best(),
        scores=scores,
        predictions=predictions,
        patients=study.read_patients(),
        sources=study.read_sources(),
        attention=_attention(study, nested, predictions),
        findings=study.read_findings(),
        canary=study.read_canary(),
        trials=read_trials(study.final.trials),
        curves=[
            _chosen_curve(name, search)
            for name, search in (*study.outer_folders().items(), ("final", study.final))
        ],
        ablation=ablation,
        ablation_curves=_ablation_curves(study, ablation) if ablation else {},
        learning_curve=study.read_learning_curve(),
        metadata=_metadata_predictions(study),
        fitted=exists(study.model / CONFIG),
    )


def _attention(study: Study, nested: bool, predictions: pd.DataFrame) -> pd.DataFrame | None:
    """Return attention averaged over repeats; it still sums to one within each patient.

    Raises DataError where it is that of others than the patients who have predictions.
    """
    if not nested and not exists(study.final.attention):
        return None
    table, known = study.table(predictions), set(predictions["patient_id"])
    shown = {table.patient_ids[place] for place in shown_places(table)}
    kept = []
    for part in outer_attention_parts(study.folder) if nested else attention_parts(study.final.attention):
        if not part["patient_id"].isin(known).all():
            raise DataError(f"{printable(study.folder)} has attention of patients without predictions.")
        kept.append(part[part["patient_id"].isin(shown)])
    if not kept:
        return None
    attention = joined_attention(kept).drop(columns=["repeat", "fold"], errors="ignore")
    return attention.groupby(["patient_id", "image"], sort=False).mean().reset_index()


def _metadata_predictions(study: Study) -> pd.DataFrame | None:
    if not exists(study.rivals):
        return None
    rows = read_predictions(study.rivals)
    metadata = rows[rows["rival"] == METADATA[study.outcome.kind]]
    return None if metadata.empty else metadata.drop(columns="rival")


def _chosen_curve(name: str, search: SearchFolder) -> TrainingCurve:
    best = search.read_best()
    return TrainingCurve(name, best.epoch, _epochs(search.epochs(best.number)))


def _ablation_curves(study: Study, ablation: AblationScores) -> dict[str, list[TrainingCurve]]:
    """Return the curves of the full model and of variants with other features, where there are such."""
    others = [name for name in ablation.features[1:] if name is not None and name in ablation.variants]
    return {
        name: [
            TrainingCurve(
                fold_name(fold.repeat, fold.fold),
                fold.epoch,
                _epochs(study.ablation.epochs(name, fold.repeat, fold.fold)),
            )
            for fold in ablation.variants[name].folds
        ]
        for name in ([FULL, *others] if others else [])
    }


def _epochs(path: Path) -> pd.DataFrame:
    return pd.DataFrame((exists(path) and read_epochs(path)) or [{"epoch": 0}])


def image_paths(sources: Sources | None, patient_ids: Collection[str]) -> tuple[dict[Key, Path], str | None]:
    """Return the paths of these patients' images, and the reason where they cannot be reached."""
    if sources is None:
        return {}, "The study was made by an older version, which did not store where its images are."
    try:
        cohort = read_cohort(Path(sources.working_folder) / sources.cohort, log=False)
    except MilError as error:
        first, *others = str(error).split("\n")
        more = f" (and {count_of(len(others), 'more problem')})" if others else ""
        return {}, f"{first}{more}"
    pairs = (
        ((patient, name), path)
        for patient in patient_ids
        if patient in cohort.images
        for name, path in zip(cohort.image_names[patient], cohort.images[patient], strict=True)
    )
    return dict(pairs), None


def stored_views(sources: Sources | None, patient_ids: Sequence[str]) -> list[dict[str, StoredBag]]:
    """Return the stored bag of each patient in each view; no bags of a view that cannot be read."""
    if sources is None:
        return []
    working = Path(sources.working_folder)
    return [_stored_bags(working / folder, patient_ids) for folder in sources.feature_folders]


def _stored_bags(folder: Path, patient_ids: Sequence[str]) -> dict[str, StoredBag]:
    try:
        return dict(zip(patient_ids, FeatureCache.open(folder).winners(patient_ids), strict=True))
    except MilError:
        return {}


def image_digests(bags: Mapping[str, StoredBag]) -> dict[Key, str]:
    """Return the SHA-256 of each image as it was embedded."""
    return {
        (patient, image.name): image.digest.hex()
        for patient, bag in bags.items()
        for image in bag.read_images()
    }


def image_scales(views: Sequence[Mapping[str, StoredBag]]) -> dict[str, float]:
    """Return the micrometres per pixel of each patient's image files, where a view resamples them."""
    scales = {patient: bag.microns_per_pixel for bags in views for patient, bag in bags.items()}
    return {patient: scale for patient, scale in scales.items() if scale is not None}
