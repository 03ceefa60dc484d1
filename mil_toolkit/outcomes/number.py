"""`Number`: an outcome that is a number, such as the percentage of blasts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.records import Json
from mil_toolkit.evaluation.metrics import Predicted, metrics_of
from mil_toolkit.evaluation.number_calibration import fit_affine, left_out_residuals, prediction_margin
from mil_toolkit.evaluation.number_metrics import NUMBER_METRICS
from mil_toolkit.evaluation.scoring import Predictions, Scoring
from mil_toolkit.evaluation.splits import MOST_BINS
from mil_toolkit.outcomes.number_cells import read_numbers
from mil_toolkit.outcomes.number_text import NumberText
from mil_toolkit.outcomes.outcome import Exclusion, Lack, Outcome, OutcomeRow, Parsed
from mil_toolkit.outcomes.sets import Intervals
from mil_toolkit.outcomes.words import Words, excluded_rows, repeated_word_problems, words_by_key

LOG: Final = "log"
_FEWEST_IN_STRATUM = 10  # patients, so that ten folds have one each
LARGEST_EXPONENT = 700.0  # whose exponential is finite


def strata_of(targets: np.ndarray) -> np.ndarray:
    """Return the stratum of each patient, (n,): up to four ranges of targets, of equal numbers of patients.

    >>> strata_of(np.arange(20.0)[::-1]).tolist()[8:12]
    [1, 1, 0, 0]
    """
    count = min(MOST_BINS, max(1, len(targets) // _FEWEST_IN_STRATUM))
    ranks = np.empty(len(targets), dtype=int)
    ranks[np.argsort(targets, kind="stable")] = np.arange(len(targets))
    return ranks * count // max(1, len(targets))


def _undecided(values: np.ndarray, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.zeros(values.shape, dtype=int)


def _differ(targets: np.ndarray) -> bool:
    return len(np.unique(targets)) > 1


def _distances(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.abs(values - targets)


def _mean(members: np.ndarray) -> np.ndarray:
    return np.asarray(members.mean(0))


def _geometric_mean(members: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(np.log(members).mean(0)))


SCORING = Scoring(
    targets=("target",),
    values=("predicted",),
    decision=None,
    constants=(),
    bounds=(-np.inf, np.inf),
    metrics=metrics_of(NUMBER_METRICS),
    decisions=(0,),
    discrimination="concordance",
    decided=lambda column: column,
    decide=_undecided,
    pooled=_mean,
    strata=strata_of,
    scorable=_differ,
    errors=_distances,
    rank=lambda values: values,
    rank_strata={
        0: "patients of the lowest range of targets",
        1: "the second range",
        2: "the third range",
        3: "the fourth range",
    },
    reliability=False,
    epoch_metrics=("mae", "rmse", "r2"),
    intervals=("low", "high"),
)
"""The scoring of numbers: targets and predicted numbers, in the unit of the table."""


@dataclass(frozen=True)
class NumberRule:
    """The mapping from an output to a predicted number, and the half width of its prediction interval.

    The number is slope * output + intercept, or with the transform "log" its exponential.

    margin: half of the width of the 95 % prediction interval before the exponential; None if the patients
        were too few for one
    """

    slope: Annotated[float, Meta(ge=0)]
    intercept: float
    margin: Annotated[float, Meta(ge=0)] | None
    transform: Literal["log"] | None = None
    kind: Literal["number"] = "number"

    def predict(self, outputs: np.ndarray) -> Predictions:
        """Return the predicted numbers, in the shape of the outputs; nothing is decided."""
        values = self._in_unit(self.slope * outputs + self.intercept)
        return Predictions(values, np.zeros(values.shape, dtype=int))

    def intervals(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the ends `low` and `high` of the prediction intervals of predicted numbers (n,)."""
        margin = np.nan if self.margin is None else self.margin
        centres = np.log(values) if self.transform == LOG else values
        return {"low": self._in_unit(centres - margin), "high": self._in_unit(centres + margin)}

    def _in_unit(self, values: np.ndarray) -> np.ndarray:
        return np.exp(np.minimum(values, LARGEST_EXPONENT)) if self.transform == LOG else values

    @property
    def constants(self) -> dict[str, float]:
        """No columns."""
        return {}

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the numbers."""
        if self.slope < 0:
            yield f"the slope {self.slope} is negative"
        if self.margin is not None and self.margin < 0:
            yield f"the margin {self.margin} is negative"


class TargetScale(NamedTuple):
    """Mean and standard deviation of the training targets, after the transform."""

    mean: float
    deviation: float


IDENTITY = TargetScale(0.0, 1.0)


@dataclass(frozen=True)
class Number(Outcome):
    """A number; targets: (n,) in the unit of the table, NaN for unlabelled patients.

    target: the column; transform: "log" to learn the logarithm; unit: for texts
    unlabelled, exclude: words of the column for patients to predict, and for rows that are left out
    """

    kind: ClassVar[str] = "number"
    own_keys: ClassVar[frozenset[str]] = frozenset({"target"})
    fixed_keys: ClassVar[tuple[str, ...]] = ("transform", "unit")

    target: str | None = None
    transform: str | None = None
    unit: str | None = None
    unlabelled: Words | None = None
    exclude: Words | None = None

    def _words(self) -> dict[str, tuple[str | int, ...]]:
        return words_by_key(unlabelled=self.unlabelled, exclude=self.exclude)

    def missing_keys(self, given: Collection[str]) -> list[str]:
        """Return none: the target alone declares the outcome."""
        return []

    def declaration_problems(self, given: Collection[str]) -> Iterator[str]:
        """Yield an unknown transform, and words that are declared more than once."""
        if self.transform not in (None, LOG):
            yield f'transform must be "log", not {self.transform!r}.'
        yield from repeated_word_problems(self._words())

    @property
    def table_columns(self) -> dict[str, str]:
        """The column of the target."""
        return {} if self.target is None else {"target": self.target}

    @property
    def exclusion(self) -> Exclusion | None:
        """The rows whose target is a word that `exclude` lists."""
        return excluded_rows(self.target, self.exclude)

    def parse(self, rows: Sequence[OutcomeRow], decimal: str) -> Parsed:
        """Return the number of each row; without a column, all are unlabelled."""
        if self.target is None:
            return Parsed(np.full(len(rows), np.nan), [])
        cells, words = [(row.place, row.cells[0]) for row in rows], self._words()
        logarithm = self.transform == LOG
        parsed = read_numbers(cells, self.target, decimal, words.get("unlabelled", ()), logarithm=logarithm)
        if parsed.problems and not np.isfinite(parsed.targets).any():
            advice = "If it holds the names of classes, declare it as label, with the words of its classes."
            parsed.problems.append(f"No cell of {self.target!r} is a number that can be used. {advice}")
        return parsed

    def known(self, targets: np.ndarray) -> np.ndarray:
        """Return which patients have a number, (n,) bool."""
        return np.isfinite(targets)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return ranges of the targets of about equal numbers of patients, (n,)."""
        return strata_of(targets)

    @property
    def stratum_names(self) -> dict[int, str]:
        """None: no fold needs patients of all ranges."""
        return {}

    def lack(self, targets: np.ndarray) -> Lack | None:
        """Return that all targets are equal, or None if they differ."""
        if _differ(targets):
            return None
        same = f"patients whose target is always {targets[0]:g}"
        return Lack(same, "Patients with different targets must be among")

    @property
    def outputs(self) -> int:
        """A single output, the standardised target."""
        return 1

    @property
    def scale(self) -> TargetScale:
        """The scale of the outputs; that of the targets themselves before `fitted`."""
        return IDENTITY

    def fitted(self, targets: np.ndarray) -> "FittedNumber":
        """Return the outcome with the scale of these targets; equal ones have the deviation 1."""
        values = self._transformed(targets)
        deviation = float(values.std())
        own = {field.name: getattr(self, field.name) for field in fields(Number)}
        return FittedNumber(**own, fitted_scale=TargetScale(float(values.mean()), deviation or 1.0))

    def _transformed(self, targets: np.ndarray) -> np.ndarray:
        values = targets.astype(float)
        return np.log(values) if self.transform == LOG else values

    def _standardised(self, targets: np.ndarray) -> np.ndarray:
        return (self._transformed(targets) - self.scale.mean) / self.scale.deviation

    def training_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the standardised targets, (n,)."""
        return self._standardised(targets).astype(np.float32)

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return the weights and the intercept of a ridge regression, (M + 1, 1)."""
        from sklearn.linear_model import Ridge  # to apply a model, it is not needed

        regression = Ridge().fit(x, self._standardised(targets))
        return np.append(regression.coef_, regression.intercept_)[:, None]

    @property
    def scoring(self) -> Scoring:
        """Targets and predicted numbers; those of members pool on the scale of the outputs."""
        return replace(SCORING, pooled=_geometric_mean) if self.transform == LOG else SCORING

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return the numbers that outputs stand for, without recalibration."""
        values, decisions = self._rule(self.scale.deviation, self.scale.mean, None).predict(outputs)
        return Predicted(targets, values, decisions, folds)

    def _rule(self, slope: float, intercept: float, margin: float | None) -> NumberRule:
        return NumberRule(slope, intercept, margin, LOG if self.transform == LOG else None)

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> NumberRule:
        """Fit an affine recalibration to out-of-fold outputs (n,), and the margin of its residuals."""
        values = self._transformed(targets)
        affine = fit_affine(outputs, values)
        margin = prediction_margin(left_out_residuals(outputs, values))
        return self._rule(affine.slope, affine.intercept, margin if np.isfinite(margin) else None)

    @property
    def sets(self) -> Intervals:
        """Intervals on the scale on which the number is learned."""
        return Intervals(logarithms=self.transform == LOG)

    @property
    def text(self) -> NumberText:
        """Sentences about a predicted number."""
        return NumberText(self.target or "the target", self.unit, self.transform == LOG)

    @classmethod
    def parse_decision(cls, value: Json) -> NumberRule:
        """Return recalibration and margin from JSON."""
        return msgspec.convert(value, NumberRule)


@dataclass(frozen=True)
class FittedNumber(Number):
    """A number with the scale of the targets of a search's patients."""

    fitted_scale: TargetScale = IDENTITY

    @property
    def scale(self) -> TargetScale:
        """The scale of the outputs."""
        return self.fitted_scale

    def fitted(self, targets: np.ndarray) -> "FittedNumber":
        """Return the outcome itself, with the scale that it has."""
        return self
