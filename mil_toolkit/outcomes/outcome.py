"""`Outcome`: everything that a kind of outcome decides, from cohort.toml to the tables of predictions.

Targets are the outcome's values as an array whose first axis is the patients. No other folder knows what is
in them: it passes them on, selects patients from them, and asks the outcome.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.records import Json
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.scoring import Predictions, Scoring
from mil_toolkit.outcomes.sets import PredictionSets
from mil_toolkit.outcomes.text import OutcomeText

UNLABELLED = -1  # target of a patient whose class is to be predicted


class OutcomeRow(NamedTuple):
    """A row of the cohort's table.

    place: how messages refer to the row
    cells: of the columns that `Outcome.table_columns` names, in this order
    """

    place: str
    cells: tuple[str, ...]


class Parsed(NamedTuple):
    """The targets of all rows, and what is wrong with some of them, a line each."""

    targets: np.ndarray
    problems: list[str]


class Exclusion(NamedTuple):
    """The column and its words, in canonical form, whose rows are not part of the cohort."""

    column: str
    words: frozenset[str]


class Lack(NamedTuple):
    """What some patients lack, without which nothing can be learned or scored.

    what: completes "trains on ..."; need: begins a sentence that goes on with " its training patients."
    """

    what: str
    need: str


@runtime_checkable
class DecisionRule(Protocol):
    """How outputs of a head become calibrated predictions; a frozen dataclass, which is stored as JSON."""

    def predict(self, outputs: np.ndarray) -> Predictions:
        """Return the predictions from outputs (..., n) or (..., n, C)."""
        ...

    @property
    def constants(self) -> Mapping[str, float]:
        """The columns of a table of predictions that hold the same number in every row."""
        ...

    def intervals(self, values: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the columns that mil-predict writes after values (n,) or (n, V), such as their intervals."""
        ...

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the numbers of the rule."""
        ...


class Outcome(Protocol):
    """A kind of outcome as a cohort declares it.

    An outcome is a frozen dataclass whose fields are its keys under `[cohort]` in cohort.toml, all of them
    with defaults.

    kind: its name in `KINDS`
    own_keys: the keys by which it is recognised, which no other kind has
    fixed_keys: the keys whose values must be those of the model where a cohort is predicted, since they give
        the predictions their meaning
    fixed_classes: whether every outcome of the kind has the same classes, which `stratum_names` names, while
        a table may have any words for them, or none
    """

    kind: ClassVar[str]
    own_keys: ClassVar[frozenset[str]]
    fixed_keys: ClassVar[tuple[str, ...]] = ()
    fixed_classes: ClassVar[bool] = False

    @classmethod
    def of(cls, outcome: "Outcome") -> Self:
        """Return an outcome of this kind as such; raises TypeError for another kind."""
        if not isinstance(outcome, cls):
            raise TypeError(f"an outcome of the kind {outcome.kind} instead of {cls.kind}")
        return outcome

    # cohort.toml

    def missing_keys(self, given: Collection[str]) -> list[str]:
        """Return the keys that `[cohort]` lacks, given those that it has."""
        ...

    def declaration_problems(self, given: Collection[str]) -> Iterator[str]:
        """Yield what is wrong with the declared values, a sentence each."""
        ...

    @property
    def table_columns(self) -> Mapping[str, str]:
        """The columns of the table that hold the outcome, by key; empty if it is not declared."""
        ...

    @property
    def exclusion(self) -> Exclusion | None:
        """The rows that are not part of the cohort; None if all are."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The table's words for each class, joined with "or"; empty if the outcome has no classes."""
        return ()

    @property
    def class_words(self) -> tuple[tuple[str, ...], ...]:
        """All of the table's words for each class."""
        return ()

    # Targets

    def parse(self, rows: Sequence[OutcomeRow], decimal: str) -> Parsed:
        """Return the targets of all rows; cells that cannot be read are reported, all of them.

        decimal: the decimal sign of the table
        """
        ...

    def known(self, targets: np.ndarray) -> np.ndarray:
        """Return whether the outcome of each patient is known, (n,) bool."""
        ...

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the stratum of each patient, (n,) int, for splits and for resamples of the patients."""
        ...

    @property
    def stratum_names(self) -> Mapping[int, str]:
        """The strata that need patients in every fold, by number, in the order of messages."""
        ...

    def lack(self, targets: np.ndarray) -> Lack | None:
        """Return what these patients (one or more) lack so that a model can learn from them, or be scored."""
        ...

    # Training

    @property
    def outputs(self) -> int:
        """The number of outputs of the head for each patient."""
        ...

    @property
    def has_class_logits(self) -> bool:
        """Whether each output of the head is the logit of a class, in the order of `class_names`."""
        return False

    def fitted(self, targets: np.ndarray) -> "Outcome":
        """Return the outcome with what it takes from training patients, such as cut points of the time.

        targets: of the training patients of a search, whose inner folds share the result; an outcome that
            was fitted returns itself
        """
        ...

    def training_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the targets as the loss takes them, (n, ...) float32."""
        ...

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return the linear model at which the metadata's weights start, (M + 1, outputs), intercepts last.

        x: (n, M) encoded metadata of training patients; balanced: give all classes the same total weight
        """
        ...

    # Predictions

    @property
    def scoring(self) -> Scoring:
        """The columns of tables of predictions, and the metrics."""
        ...

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return the predictions that outputs of the head give before a decision rule is fitted.

        Shapes: outputs (n,) or (n, C), folds (n,)
        """
        ...

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> DecisionRule:
        """Fit calibration and decision rule to out-of-fold outputs (n,) or (n, C).

        Raises DataError where the patients are too few for the rule.
        """
        ...

    def check_rule(self, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None) -> None:
        """Raise DataError where `decide` would, before any training; targets: of the held-out patients.

        Options of a threshold were refused before for all outcomes without one, see `config.for_outcome`.
        """
        return

    @property
    def sets(self) -> PredictionSets | None:
        """The sets by which a model abstains; None if there are none for the outcome."""
        return None

    @property
    def text(self) -> OutcomeText:
        """The parts of sentences about the outcome."""
        ...

    @classmethod
    def parse_decision(cls, value: Json) -> DecisionRule:
        """Return a decision rule from JSON; raises `msgspec.ValidationError` for other content."""
        ...
