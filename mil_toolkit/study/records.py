"""The records in a study folder: what each of its JSON files holds, and in which ranges.

A condition on several fields stands in `__post_init__`, whose ValueError `core.records` reports with the name
of the file. Conditions on several files are in `study.verification`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, TypeVar

from msgspec import Meta

from mil_toolkit.cohort.kinds import KINDS
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import HeadConfig, view_names
from mil_toolkit.config.settings import head_config
from mil_toolkit.config.study import MOST_EPOCHS, StudyConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.records import ABSENT_IF_NONE
from mil_toolkit.evaluation.records import (
    Comparison,
    Estimate,
    Optimism,
    PassedOver,
    ReliabilityBin,
    Score,
    Scores,
    Spread,
)
from mil_toolkit.features.spec import Spec
from mil_toolkit.outcomes.kinds import OutcomeRecord
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.search.space import SearchedInterval

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Epoch = Annotated[int, Meta(ge=1, le=MOST_EPOCHS)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000_000)]
SOURCES, REPORT = "sources.json", "report.html"  # to find them, `study.folder` need not be imported
SEARCH_NAME = re.compile(r"final|repeat[1-9][0-9]{0,5}-fold[1-9][0-9]{0,5}")

Item = TypeVar("Item")


def one_or_all(items: list[Item]) -> Item | list[Item] | None:
    """Return a single item as itself, several as a list, and None for none: the form in JSON files.

    >>> one_or_all(["whole"]), one_or_all(["whole", "crop"])
    ('whole', ['whole', 'crop'])
    """
    return items if len(items) > 1 else next(iter(items), None)


def as_list(stored: Item | list[Item] | None) -> list[Item]:
    """Return what `one_or_all` was given."""
    if stored is None:
        return []
    return stored if isinstance(stored, list) else [stored]


# config.json


@dataclass(frozen=True)
class CohortIdentity:
    """The cohort that a study was made of: its name and a digest of its labelled patients."""

    name: str
    digest: str
    patients: Positive


@dataclass(frozen=True)
class FeaturesIdentity:
    """The features of a study: the cache folder's name, a digest of the patients' bags, and the spec."""

    name: str
    digest: str
    spec: Spec


@dataclass(frozen=True)
class StudyDescription:
    """Everything that identifies a study; the same description gives the same study (config.json).

    study: the options; space: of each hyperparameter the values or the interval that a search tries
    features: a list of several feature folders; None for metadata only
    outcome: None for two classes
    """

    schema: int
    study: StudyConfig
    space: dict[str, list[Value] | SearchedInterval]
    cohort: CohortIdentity
    features: FeaturesIdentity | list[FeaturesIdentity] | None
    outcome: OutcomeRecord | None = field(default=None, metadata=ABSENT_IF_NONE)

    def __post_init__(self) -> None:
        names = [identity.name for identity in self.all_features]
        if len(set(names)) < len(names):
            raise ValueError("features: a name occurs twice")
        searched = self.space.get("features", [])
        for value in (
            *self.study.settings.get("features", ()),
            *(searched if isinstance(searched, list) else ()),
        ):
            if not set(view_names(str(value))) <= set(names):
                raise ValueError(f"space: {str(value)[:100]!r} does not name the features of the study")

    @property
    def all_features(self) -> list[FeaturesIdentity]:
        """The feature folders; none for metadata only."""
        return as_list(self.features)


# splits.json


@dataclass(frozen=True)
class HeldOut:
    """The held-out patients of a search and of each of its inner folds, by id."""

    test: list[str]
    inner: list[list[str]]


@dataclass(frozen=True)
class SplitsRecord:
    """The splits of a study, by the name of the search (splits.json).

    age_bins: age bins that the inner folds are stratified by, 1 where they are not
    held_out: patients of each class (or other stratum, by name) in each outer fold
    """

    age_bins: dict[str, Positive]
    held_out: dict[str, dict[str, Count]]
    searches: dict[str, HeldOut]

    def __post_init__(self) -> None:
        if list(self.searches)[-1:] != ["final"]:
            raise ValueError("searches: the last one is not `final`")
        for name in self.searches:  # each names a folder
            if not SEARCH_NAME.fullmatch(name):
                raise ValueError(f"searches: {name[:100]!r} is not the name of a search")


# sources.json and patients.json: for the report; they do not identify a study.


@dataclass(frozen=True)
class Sources:
    """Where a study's data are, as named on the command line, relative to the working folder.

    features: a list of several feature folders; None for metadata only
    """

    working_folder: str
    study: str
    cohort: str
    features: str | list[str] | None

    @property
    def feature_folders(self) -> list[str]:
        """The feature folders; none for metadata only."""
        return as_list(self.features)


@dataclass(frozen=True)
class ColumnRecord:
    """A metadata column as declared, without the table's heading."""

    name: str
    kind: str
    transform: str | None
    unit: str | None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind[:100]!r} is not one of {', '.join(KINDS)}")

    @property
    def shown_unit(self) -> str:
        """The unit of the values, as reports show it; empty if there is none."""
        return self.unit or ("years" if self.kind == "birth-date" else "")


@dataclass(frozen=True)
class PatientRecord:
    """A labelled patient; `images` is the bag size, None without images; missing metadata are None.

    label: the target; the number of the class if there are classes
    group: None where the cohort declares none, and in studies of older versions
    """

    id: str
    label: int | float | list[float]
    images: Positive | None
    metadata: dict[str, float | str | None]
    group: str | None = None


@dataclass(frozen=True)
class Statements:
    """What the `[study]` section of a cohort.toml says, for reports; None where it says nothing.

    lowest_threshold, highest_threshold: range of probabilities at which the clinic might refer a patient
    """

    setting: str | None
    dates: str | None
    eligibility: str | None
    reference_standard: str | None
    intended_use: str | None
    fairness: str | None
    lowest_threshold: Share
    highest_threshold: Share


@dataclass(frozen=True)
class PatientsRecord:
    """The labelled patients of a study, and how many others the cohort has (patients.json).

    class_names: the table's words for each class; empty if the outcome has no classes
    grouped: whether the cohort declares groups
    excluded: rows of the table that the cohort leaves out, by the word of their label
    statements: the `[study]` section of the cohort.toml
    These three are None in studies of older versions.
    """

    class_names: tuple[str, ...]
    unlabelled: Count
    columns: list[ColumnRecord]
    patients: list[PatientRecord]
    grouped: bool | None = None
    excluded: dict[str, Count] | None = None
    statements: Statements | None = None

    def __post_init__(self) -> None:
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("columns: a name occurs twice")
        if len({patient.id for patient in self.patients}) < len(self.patients):
            raise ValueError("patients: an id occurs twice")
        for place, patient in enumerate(self.patients):
            if self.class_names and patient.label not in range(len(self.class_names)):
                classes = f"0 to {len(self.class_names) - 1}"
                raise ValueError(f"patients[{place}].label is not a class from {classes}")
            if not _fits(patient.metadata, self.columns):
                raise ValueError(f"patients[{place}]: the metadata do not fit the columns")


def _fits(metadata: Mapping[str, float | str | None], columns: Sequence[ColumnRecord]) -> bool:
    """Return whether a patient's metadata have a value of the right type, or None, for every column."""
    values = [(metadata.get(column.name), KINDS[column.kind].numeric) for column in columns]
    known = metadata.keys() == {column.name for column in columns}
    return known and all(value is None or isinstance(value, str) != numeric for value, numeric in values)


# audit.json


@dataclass(frozen=True)
class Finding:
    """A finding of the audit.

    kind: what was checked; level: leak, shortcut, note or unchecked, the gravest first; text: the finding, a
        sentence
    advice: what to do about it; count: how many cases of it; where: the first of the patients, images or
        columns
    figures: numbers such as an AUC (`value`) with its 95 % interval (`low`, `high`)
    """

    kind: str
    level: str
    text: str
    advice: str = ""
    count: Count = 0
    where: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)


# best.json


@dataclass(frozen=True)
class Best:
    """What a search chose (best.json).

    number: of the trial, from 0; its seeds derive from it
    epoch, value: the configuration's number of epochs, and the objective at that epoch on the inner folds;
        both were chosen on these folds
    decision: calibration and decision rule, from the out-of-fold logits of all members
    training: scores on the training patients of the inner folds
    parameters: the values of the hyperparameters that the search varied
    passed_over: None where no trial was passed over, and in studies of older versions
    """

    number: Count
    config: HeadConfig
    epoch: Epoch
    value: float
    decision: DecisionRule
    training: dict[str, float | None]
    parameters: dict[str, Value]
    passed_over: PassedOver | None = None

    def __post_init__(self) -> None:
        try:
            head_config(asdict(self.config))
        except UsageError as error:
            raise ValueError(f"config: {error}") from None
        for problem in self.decision.problems():
            raise ValueError(f"decision: {problem}")
        if self.epoch > self.config.epochs:
            raise ValueError(
                f"epoch: {self.epoch} is more than the {self.config.epochs} of the configuration"
            )
        for name, value in self.parameters.items():
            if not hasattr(self.config, name) or getattr(self.config, name) != value:
                raise ValueError(f"parameters: {name[:100]!r} is not as in the configuration")


# scores.json


@dataclass(frozen=True, kw_only=True)
class StudyScores:
    """The scores of a study (scores.json), or of the model in a bundle.

    epoch: the number of epochs that the final search chose
    training: on the training patients of the inner folds; None for a fine-tuned model
    inner: of the final search's out-of-fold predictions, which chose the configuration, epoch and threshold

    All that follows is on held-out patients (outer folds), and None without them:

    outer: of predictions by models that were tuned, calibrated and fitted without the patient
    optimism: inner minus outer score
    rivals: the outer scores of the baselines; gains: the model's minus each baseline's, paired
    spread: standard deviations over single members (seeds) and over repeats (splits), by metric
    reliability: the reliability curve of the outer probabilities
    bag_size: rank correlation of the logit with the number of images, within each class; None without images
    bag_size_of_metadata: the same for the baseline on metadata only, which sees no image: that much of the
        correlation may be due to the clinical values
    """

    epoch: Epoch
    passed_over: PassedOver | None = None
    training: dict[str, float | None] | None
    inner: Scores
    outer: Scores | None = None
    optimism: Optimism | None = None
    rivals: dict[str, Scores] | None = None
    gains: dict[str, Comparison] | None = None
    spread: dict[str, Spread] | None = None
    reliability: list[ReliabilityBin] | None = None
    bag_size: dict[str, float | None] | None = None
    bag_size_of_metadata: dict[str, float | None] | None = None


# learning_curve.json


@dataclass(frozen=True)
class LearningPoint:
    """The score of the procedure with a share of the training patients.

    patients: the mean number of training patients over the outer folds
    """

    share: float
    patients: float
    score: Score


@dataclass(frozen=True)
class CurvePoint:
    """The fitted score with a number of training patients."""

    patients: float
    score: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """The learning curve of a study (learning_curve.json).

    metric: its name; curve: of the fitted power law
    doubled: the difference that twice as many training patients are expected to make
    patients_for_width: patients for a 95 % interval of this `width` around the study's score; None where the
        score has no interval
    left_out: shares that could not be run, and why
    """

    metric: str
    points: list[LearningPoint]
    curve: list[CurvePoint]
    doubled: Estimate
    width: float
    patients_for_width: int | None
    left_out: dict[str, str]


# Fine-tuning: `finetuned` in the scores.json of a bundle.


@dataclass(frozen=True)
class ComparedOn:
    """The separate patients on whom fine-tuning was compared with the frozen backbone.

    chose_nothing: whether they are held-out patients of the study (its first outer fold)
    """

    patients: Positive
    chose_nothing: bool


@dataclass(frozen=True)
class FinetuningScores:
    """Fine-tuning of the backbone against the frozen one.

    comparison: fine-tuned minus frozen on the separate patients; kept: whether the fine-tuned model replaces
        the frozen
    outer: scores on the patients of the other outer folds, or "not evaluated"
    """

    settings: FinetuneConfig
    separate: ComparedOn
    comparison: Comparison
    kept: bool
    outer: Scores | str


# ablation/scores.json


@dataclass(frozen=True)
class VariantFold:
    """What a variant came to in an outer fold; unchanged: it is what the fold's search had chosen anyway."""

    repeat: Positive
    fold: Positive
    unchanged: bool
    epoch: Epoch
    threshold: Share | None


@dataclass(frozen=True)
class VariantScores:
    """The outer scores of a variant.

    difference: variant minus full model, None for the full model itself
    p_adjusted: of each metric, the p-value of the difference adjusted for the number of variants (Holm 1979);
        None for the full model itself, and in ablations of older versions
    """

    scores: Scores
    difference: Comparison | None
    folds: list[VariantFold]
    p_adjusted: dict[str, float | None] | None = None


@dataclass(frozen=True)
class AblationScores:
    """The scores of an ablation.

    retuned: trials of a search of its own for each variant; None where the fold's best configuration was
        changed
    features: names of the feature folders, None for none; images_of_equal_bags: images of each patient on
        equal bags
    gains: of the full model over metadata only, on whole and on equal bags; left_out: why a variant has no
    scores
    primary_metric: of the study; all other metrics are secondary
    """

    retuned: Positive | None
    features: list[str | None]
    images_of_equal_bags: Positive | None
    variants: dict[str, VariantScores]
    gains: dict[str, Comparison]
    left_out: dict[str, str]
    primary_metric: str = "balanced_accuracy"
