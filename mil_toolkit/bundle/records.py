"""The records in a bundle: what its config.json holds."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from mil_toolkit.bundle.domain.records import Domain
from mil_toolkit.bundle.membership import Fingerprint, TrainingMarks
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.features.spec import Spec
from mil_toolkit.outcomes.kinds import OutcomeRecord, outcome_of
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome
from mil_toolkit.study.abstention import Calibration
from mil_toolkit.study.records import ColumnRecord, as_list, one_or_all
from mil_toolkit.study.tripod import Item

SCHEMA = 2
FINGERPRINTS = 1  # the schema of older bundles, whose `fitted_on` recognises nobody whose metadata changed
_ABSENT = (  # fields of `About` that its JSON object lacks where they are None
    *("finetuned", "ranges", "items", "microns_per_pixel", "outcome", "domain", "calibration"),
    "recalibrations",
)
Count = Annotated[int, Meta(ge=0, le=2**53)]
Width = Annotated[int, Meta(ge=0, le=2**20)]
Step = Literal["intercept", "slope", "prevalence", "threshold"]
STEPS: tuple[Step, ...] = get_args(Step)  # what mil-validate can refit
STEP_WORDS: dict[Step, str] = {
    "intercept": "intercept",
    "slope": "intercept and slope",
    "prevalence": "shift to a stated prevalence",
    "threshold": "threshold",
}
Epochs = Annotated[int, Meta(ge=1, le=10**6)]
MOST_MEMBERS = 256  # the memory that heads need side by side grows with the square of their number
Members = Annotated[int, Meta(ge=1, le=MOST_MEMBERS)]


@dataclass(frozen=True)
class BundleFeatures:
    """The features that a model was fitted on.

    name: of the cache folder; recorded: precisions and decoders by which the embeddings were computed
    digest: of the patients' bags; None for a fine-tuned backbone, whose embeddings were never stored, and in
        an anonymous bundle
    """

    name: str
    spec: Spec
    recorded: list[str]
    digest: str | None = None

    @property
    def has_backbone(self) -> bool:
        """Whether images can be embedded; imported features have no backbone."""
        return self.spec["weight_digest"] is not None

    def to_json(self) -> dict[str, Json]:
        """Return the JSON object, which lacks `digest` where there is none."""
        value = to_json(self)
        assert isinstance(value, dict)
        first = {"name": value["name"]} | ({} if self.digest is None else {"digest": self.digest})
        return {**first, "spec": value["spec"], "recorded": value["recorded"]}


@dataclass(frozen=True)
class Scales:
    """The lowest and the highest micrometres per pixel of the images of some patients."""

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.highest < math.inf:
            raise ValueError(f"{self.lowest} and {self.highest} are not positive numbers in this order")


@dataclass(frozen=True)
class Recalibration:
    """A recalibration of the model by mil-validate on another cohort.

    cohort: its name; patients: their number
    refitted: what was refitted, of STEPS; prevalence: the stated one, None if none was stated
    before: calibration and decision rule before
    scores: of the refitted model on these patients, by cross-fitting
    fitted_on: how the patients are recognised; "anonymous" if nothing about them was to be stored
    """

    cohort: str
    patients: Annotated[int, Meta(ge=1, le=2**53)]
    refitted: list[Step]
    prevalence: Annotated[float, Meta(gt=0, lt=1)] | None
    before: DecisionRule
    scores: Scores
    fitted_on: TrainingMarks | Literal["anonymous"]

    @property
    def words(self) -> str:
        """The refitted parts, such as "intercept and slope, then threshold"."""
        return ", then ".join(STEP_WORDS[step] for step in self.refitted)

    @property
    def moved(self) -> bool:
        """Whether predictions changed, and not only the threshold."""
        return self.refitted != ["threshold"]

    @property
    def where(self) -> str:
        """The patients, such as "20 patients of cohort other"."""
        return f"{count_of(self.patients, 'patient')} of cohort {printable(self.cohort)}"

    @property
    def sentence(self) -> str:
        """On whom the model was recalibrated, and what was refitted."""
        return f"The model was recalibrated on {self.where}: {self.words}."

    @property
    def summary(self) -> dict[str, Json]:
        """The cohort and what was refitted, for the JSON of mil-predict."""
        return {"cohort": self.cohort, "refitted": [*self.refitted]}


@dataclass(frozen=True)
class About:
    """Where a model comes from.

    study, cohort: names; patients: number of labelled patients; class_counts, class_names: of each class,
        negative and positive if there are two; empty if the outcome has no classes
    images: of all patients, 0 for a model on metadata only
    fitted_on: how the patients are recognised; "anonymous" if nothing about them was to be stored, and
        fingerprints in bundles of schema FINGERPRINTS
    columns: the metadata columns as declared
    features: a list of several views; None for a model on metadata only
    procedure: the options of the study; epoch: the number of epochs that the heads were fitted for
    decision: calibration and decision rule
    versions: of mil_toolkit and of the packages that matter for the numbers
    finetuned: how the backbone in the bundle was trained, with the number of epochs that was chosen; None
        where the backbone stayed frozen
    ranges: lowest and highest training value of each number column, in the unit and before any logarithm;
        None in anonymous bundles and in those of older versions
    items: of TRIPOD+AI, for the model card; None in bundles of older versions
    microns_per_pixel: of the training images, if it is known and matters, see `training_scales`; None in
        bundles of older versions
    outcome: None for two classes
    domain: what the training patients are like; None in bundles of older versions
    calibration: by which the model abstains; None for outcomes without sets, for a fine-tuned backbone, in
        anonymous bundles and in those of older versions
    recalibrations: by mil-validate, the first one first; None without any
    """

    study: str
    cohort: str
    patients: Count
    class_counts: tuple[Count, ...]
    images: Count
    fitted_on: TrainingMarks | Literal["anonymous"] | list[Fingerprint]
    class_names: tuple[str, ...]
    columns: list[ColumnRecord]
    features: BundleFeatures | list[BundleFeatures] | None
    procedure: StudyConfig
    epoch: Epochs
    decision: DecisionRule
    versions: dict[str, str]
    finetuned: FinetuneConfig | None = None
    ranges: dict[str, tuple[float, float]] | None = None
    items: list[Item] | None = None
    microns_per_pixel: Scales | None = None
    outcome: OutcomeRecord | None = None
    domain: Domain | None = None
    calibration: Calibration | None = None
    recalibrations: list[Recalibration] | None = None

    def __post_init__(self) -> None:
        expected = len(self.predicted.class_names)
        for name in ("class_names", "class_counts"):
            if len(getattr(self, name)) != expected:
                raise ValueError(f"{name}: {len(getattr(self, name))} classes instead of {expected}")

    @property
    def predicted(self) -> Outcome:
        """What the model predicts; without the table's words if it has two classes."""
        return outcome_of(self.outcome)

    @property
    def views(self) -> list[BundleFeatures]:
        """The features of each view, in the order of the columns of its embeddings; none without images."""
        return as_list(self.features)

    @property
    def marks(self) -> TrainingMarks | None:
        """How the training patients are recognised; None where the bundle does not say."""
        return self.fitted_on if isinstance(self.fitted_on, TrainingMarks) else None

    @property
    def all_marks(self) -> list[TrainingMarks]:
        """How the patients of training and of recalibrations are recognised; empty if nobody is."""
        known = [self.fitted_on, *(step.fitted_on for step in self.recalibrations or ())]
        return [marks for marks in known if isinstance(marks, TrainingMarks)]

    def to_json(self) -> dict[str, Json]:
        """Return the JSON object, which lacks `finetuned` for a frozen backbone, and absent values."""
        value = to_json(self)
        assert isinstance(value, dict)
        for name in _ABSENT:
            if value[name] is None:
                del value[name]
        views: list[Json] = [view.to_json() for view in self.views]
        return value | {"features": one_or_all(views)}


@dataclass(frozen=True)
class HeadRecord:
    """How to build the heads before their tensors are loaded.

    config: fields of HeadConfig, as the writing version had them; embedding_width: after the projection, 0
    without images; encoder: see `MetadataEncoder.to_json`
    view_widths: of several views, the columns of each after the projection; None otherwise
    outputs: of each head; None for one
    """

    config: dict[str, Any]
    members: Members
    embedding_width: Width
    encoder: dict[str, Any]
    view_widths: list[Width] | None = None
    outputs: Annotated[int, Meta(ge=2, le=2**10)] | None = None


@dataclass(frozen=True)
class BundleConfig:
    """The content of config.json except its own `digest`; digests: SHA-256 of the other files, by name."""

    schema: int
    digests: dict[str, str]
    head: HeadRecord
    about: About

    def to_json(self) -> dict[str, Json]:
        """Return the JSON object."""
        value = to_json(self)
        assert isinstance(value, dict) and isinstance(value["head"], dict)
        for name in ("view_widths", "outputs"):
            if value["head"][name] is None:
                del value["head"][name]
        return value | {"about": self.about.to_json()}
