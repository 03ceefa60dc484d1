"""The records in a study folder: what each of its JSON files holds."""

from dataclasses import dataclass, field

from mil_toolkit.config import FinetuneConfig, HeadConfig, StudyConfig, Value
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.records import (
    Comparison,
    Estimate,
    Optimism,
    ReliabilityBin,
    Score,
    Scores,
    Spread,
)
from mil_toolkit.features.spec import Spec
from mil_toolkit.search.space import SearchedInterval

# config.json


@dataclass(frozen=True)
class CohortIdentity:
    """The cohort that a study was made of: its name and a digest of its labelled patients."""

    name: str
    digest: str
    patients: int


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
    features: None for metadata only
    """

    schema: int
    study: StudyConfig
    space: dict[str, list[Value] | SearchedInterval]
    cohort: CohortIdentity
    features: FeaturesIdentity | None


# splits.json


@dataclass(frozen=True)
class ClassCounts:
    """Patients of each class."""

    positive: int
    negative: int


@dataclass(frozen=True)
class HeldOut:
    """The held-out patients of a search and of each of its inner folds, by id."""

    test: list[str]
    inner: list[list[str]]


@dataclass(frozen=True)
class SplitsRecord:
    """The splits of a study, by the name of the search (splits.json).

    age_bins: age bins that the inner folds are stratified by, 1 where they are not
    held_out: patients of each class in each outer fold
    """

    age_bins: dict[str, int]
    held_out: dict[str, ClassCounts]
    searches: dict[str, HeldOut]


# sources.json and patients.json: for the report; they do not identify a study.


@dataclass(frozen=True)
class Sources:
    """Where a study's data are, as named on the command line, relative to the working folder."""

    working_folder: str
    study: str
    cohort: str
    features: str | None


@dataclass(frozen=True)
class ColumnRecord:
    """A metadata column as declared, without the table's heading."""

    name: str
    kind: str
    transform: str | None
    unit: str | None


@dataclass(frozen=True)
class PatientRecord:
    """A labelled patient; `images` is the bag size, None without images; missing metadata are None.

    group: None without groups, and in studies of older versions
    """

    id: str
    label: int
    images: int | None
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
    lowest_threshold: float
    highest_threshold: float


@dataclass(frozen=True)
class PatientsRecord:
    """The labelled patients of a study, and how many others the cohort has (patients.json).

    class_names: the table's words for class 0 and class 1
    excluded: rows of the table that the cohort leaves out, by the word of their label
    statements: the `[study]` section of the cohort.toml
    Both are None in studies of older versions.
    """

    class_names: tuple[str, str]
    unlabelled: int
    columns: list[ColumnRecord]
    patients: list[PatientRecord]
    excluded: dict[str, int] | None = None
    statements: Statements | None = None


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
    count: int = 0
    where: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)


# best.json


@dataclass(frozen=True)
class PassedOver:
    """The trial with the best value, where the defaults were kept instead.

    lead: how much better its objective was than that of the defaults, both trained again with all members
    error: the standard error of that difference, which the lead had to exceed; None where it is not defined
    """

    trial: int
    lead: float | None
    error: float | None


@dataclass(frozen=True)
class Best:
    """What a search chose (best.json).

    number: of the trial, from 0; its seeds derive from it
    epoch, value: the configuration's number of epochs, and the objective at that epoch on the inner folds;
        both were chosen on these folds
    decision: calibration and threshold, from the out-of-fold logits of all members
    training: scores on the training patients of the inner folds
    parameters: the values of the hyperparameters that the search varied
    passed_over: None where no trial was passed over, and in studies of older versions
    """

    number: int
    config: HeadConfig
    epoch: int
    value: float
    decision: Decision
    training: dict[str, float | None]
    parameters: dict[str, Value]
    passed_over: PassedOver | None = None


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

    epoch: int
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

    patients: int
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

    repeat: int
    fold: int
    unchanged: bool
    epoch: int
    threshold: float


@dataclass(frozen=True)
class VariantScores:
    """The outer scores of a variant; difference: variant minus full model, None for the full model itself."""

    scores: Scores
    difference: Comparison | None
    folds: list[VariantFold]


@dataclass(frozen=True)
class AblationScores:
    """The scores of an ablation.

    retuned: trials of a search of its own for each variant; None where the fold's best configuration was
        changed
    features: names of the feature folders, None for none; images_of_equal_bags: images of each patient on
        equal bags
    gains: of the full model over metadata only, on whole and on equal bags; left_out: why a variant has no
    scores
    """

    retuned: int | None
    features: list[str | None]
    images_of_equal_bags: int | None
    variants: dict[str, VariantScores]
    gains: dict[str, Comparison]
    left_out: dict[str, str]
