"""The result of an external validation, as mil-validate prints it with --json."""

from dataclasses import dataclass

from mil_toolkit.bundle.records import Step
from mil_toolkit.evaluation.recalibration import Calibration
from mil_toolkit.evaluation.records import Estimate, Scores
from mil_toolkit.outcomes.outcome import DecisionRule


@dataclass(frozen=True)
class Flow:
    """How many patients of the table are scored, and why the others are not; each is counted once.

    table: all patients of the table; excluded: left out by `exclude`; without_outcome: not labelled
    without_images: without embeddings, although the model looks at images
    in_training: the model was, or may have been, fitted or recalibrated on them
    """

    table: int
    excluded: int
    without_outcome: int
    without_images: int
    in_training: int
    scored: int


@dataclass(frozen=True)
class Refitted:
    """The model after a refit on this cohort; scores are by cross-fitting, without metrics of rankings.

    steps: what was refitted, in this order; rule: as refitted on all patients
    differences: of the refitted model minus the model as it stands, paired
    calibration: of two classes; None for other outcomes
    """

    steps: list[Step]
    scores: Scores
    differences: dict[str, Estimate]
    calibration: Calibration | None
    rule: DecisionRule


@dataclass(frozen=True)
class SubgroupScores:
    """The scores of some patients, None where these are too few or cannot be scored."""

    variable: str
    level: str
    patients: int
    scores: Scores | None


@dataclass(frozen=True)
class Validation:
    """An external validation.

    study, trained_on: names of the study and the cohort of the model; cohort, outcome: of this validation
    checked: whether the bundle says whom it was fitted on; if not, training patients may be among the scored
    in_training, without_images: ids of patients who are left out
    prevalence: at which `scores` state predictive values, None for the share of the scored patients
    stated: prevalence that was stated for a shift, None without one
    scores, calibration: of the model as it stands; calibration of two classes only
    outer: scores of the study on held-out patients; None without outer folds
    differences: `scores` minus `outer`, as two independent samples; empty where a recalibration changed the
        predictions after `outer` had been measured
    refits: what was refitted here, by name; not_refitted: why not, a sentence each
    in_domain: how many patients are like those of training; None if the bundle does not know
    notes: what a reader has to know, a sentence each
    """

    study: str
    trained_on: str
    cohort: str
    outcome: str
    flow: Flow
    checked: bool
    in_training: list[str]
    without_images: list[str]
    prevalence: float | None
    stated: float | None
    scores: Scores
    calibration: Calibration | None
    outer: Scores | None
    differences: dict[str, Estimate]
    refits: dict[str, Refitted]
    not_refitted: dict[str, str]
    subgroups: list[SubgroupScores]
    in_domain: int | None
    notes: list[str]
