"""`Scoring`: how predictions of a kind of outcome are stored in tables and scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mil_toolkit.evaluation.metrics import METRICS, Metric

_LEAST = 1e-12  # probability whose logit is taken
_SATURATED = 1e-9  # probabilities nearer to 0 or 1 do not determine their logits


class Predictions(NamedTuple):
    """Predictions for n patients.

    values: (..., n), or (..., n, V) if there are several numbers for each patient
    decisions: (..., n); all zero if nothing is decided
    """

    values: np.ndarray
    decisions: np.ndarray


@dataclass(frozen=True)
class Scoring:
    """How predictions of a kind of outcome are stored in tables and scored.

    targets, values: names of their columns; an array of targets or values has a last axis for the columns if
        there are several
    decision: name of the column of decisions; None if nothing is decided
    constants: names of the columns of `DecisionRule.constants`
    bounds: lowest and highest value
    metrics: by name
    discrimination: name of the metric that is 0.5 on average if the predictions say nothing of the targets
    decisions: all that can be decided
    decided: returns decisions from the numbers in their column
    decide: returns the decisions (n,) from values (n,) or (n, V) and from the columns of constants (n,)
    pooled: returns the values (n,) or (n, V) that the members' values (K, n) or (K, n, V) pool to, NaN where
        they do not determine them. None if they never do: values that are not a function of one output
        each, as of ordered classes and survival, do not give back the outputs whose mean counts
    strata: returns the stratum of each patient (n,) from the targets; resamples keep their sizes
    scorable: returns whether patients with these targets can be scored
    rank: returns numbers (R, n) that grow with the predicted values; None if these have no order
    rank_strata: names of the strata within which these numbers are compared with bag sizes, by number
    reliability: whether the values are probabilities of the decision 1, with a reliability curve
    epoch_metrics: names of those that are recorded after each epoch of a trial
    errors: returns how far the values are from the targets (..., n), from targets and values; it shows
        whether the patients of a group are alike
    intervals: names of the columns of `DecisionRule.intervals`
    surprises: returns how unexpected the target of each patient is (n,), by which reports order patients,
        from targets and values; None for `errors`
    """

    targets: tuple[str, ...]
    values: tuple[str, ...]
    decision: str | None
    constants: tuple[str, ...]
    bounds: tuple[float, float]
    metrics: Mapping[str, Metric]
    decisions: tuple[int, ...]
    discrimination: str
    decided: Callable[[np.ndarray], np.ndarray]
    decide: Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
    pooled: Callable[[np.ndarray], np.ndarray] | None
    strata: Callable[[np.ndarray], np.ndarray]
    scorable: Callable[[np.ndarray], bool]
    errors: Callable[[np.ndarray, np.ndarray], np.ndarray]
    rank: Callable[[np.ndarray], np.ndarray] | None
    rank_strata: Mapping[int, str]
    reliability: bool
    epoch_metrics: tuple[str, ...]
    intervals: tuple[str, ...] = ()
    surprises: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order of tables."""
        return [*self.targets, *self.values, *([] if self.decision is None else [self.decision])]

    def target_columns(self, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Return the targets of n patients by column, (n,) each."""
        return _columns(self.targets, targets)

    def targets_of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return targets from their columns, whole numbers as integers."""
        return side_by_side([_whole(np.asarray(columns[name])) for name in self.targets])

    def values_of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return values from their columns."""
        return side_by_side([np.asarray(columns[name], dtype=float) for name in self.values])

    def prediction_columns(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """Return values and decisions of n patients by column, (n,) each."""
        columns = _columns(self.values, predictions.values)
        if self.decision is not None:
            columns[self.decision] = predictions.decisions.astype(int)
        return columns

    def spread_columns(self, spread: np.ndarray) -> dict[str, np.ndarray]:
        """Return the standard deviations over members by column, (n,) each.

        >>> list(BINARY.spread_columns(np.zeros(3)))
        ['spread']
        """
        return _columns(self.spread_names, spread)

    @property
    def prediction_names(self) -> list[str]:
        """The names of the columns that mil-predict writes for every patient, in order.

        >>> BINARY.prediction_names
        ['probability', 'prediction', 'spread']
        """
        decision = [] if self.decision is None else [self.decision]
        return [*self.values, *decision, *self.intervals, *self.spread_names]

    @property
    def spread_names(self) -> list[str]:
        """The names of the columns that hold standard deviations over members."""
        return self._by_value("spread")

    def member_names(self, number: int) -> list[str]:
        """Return the names of the columns that hold the values of a single member, from 1.

        >>> BINARY.member_names(2)
        ['member2']
        """
        return self._by_value(f"member{number}")

    def _by_value(self, name: str) -> list[str]:
        """Return a column's name, or if there are several values one for each, after a colon."""
        return [name] if len(self.values) == 1 else [f"{name}:{_suffix(value)}" for value in self.values]

    def member_columns(self, number: int, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values of a single member by column, (n,) each."""
        return _columns(self.member_names(number), values)


def side_by_side(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return a single column as it is, and several along a last axis."""
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=-1)


def _whole(column: np.ndarray) -> np.ndarray:
    """Return whole numbers as integers, whatever their type in a table was."""
    whole = column.astype(int)
    return whole if np.array_equal(column, whole) else column.astype(float)


def _columns(names: tuple[str, ...] | list[str], array: np.ndarray) -> dict[str, np.ndarray]:
    return {names[0]: array} if len(names) == 1 else dict(zip(names, array.T, strict=True))


def _suffix(name: str) -> str:
    """Return the part of a column's name after the colon; all of it without one."""
    return name.partition(":")[2] or name


def _has_both(labels: np.ndarray) -> bool:
    return len(np.unique(labels)) > 1


def _distances(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.abs(probabilities - labels)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    from scipy.special import logit  # takes long to import

    return logit(np.clip(probabilities, _LEAST, 1 - _LEAST))


def _of_mean_logit(members: np.ndarray) -> np.ndarray:
    determined = np.all((members > _SATURATED) & (members < 1 - _SATURATED), axis=0)
    from scipy.special import expit, logit  # take long to import

    means = expit(logit(np.where(determined, members, 0.5)).mean(0))
    return np.where(determined, means, np.nan)


BINARY = Scoring(
    targets=("label",),
    values=("probability",),
    decision="prediction",
    constants=("threshold",),
    bounds=(0.0, 1.0),
    metrics=METRICS,
    decisions=(0, 1),
    discrimination="auc",
    decided=lambda column: column == 1,
    decide=lambda probabilities, constants: probabilities >= constants["threshold"],
    pooled=_of_mean_logit,
    strata=lambda labels: labels,
    scorable=_has_both,
    errors=_distances,
    rank=_logits,
    rank_strata={1: "positive", 0: "negative"},
    reliability=True,
    epoch_metrics=(
        "balanced_log_loss",
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "auc",
    ),
)
"""The scoring of two classes: labels of 0 and 1, probabilities of class 1, and decisions for class 1."""
