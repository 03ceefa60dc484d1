"""`Survival`: the time to an event, which censored patients have not had when they were last seen."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import msgspec
import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.errors import import_extra
from mil_toolkit.core.records import Json
from mil_toolkit.evaluation.calibration import fit_calibration
from mil_toolkit.evaluation.discrete_time import (
    choose_cuts,
    hazard_rows,
    survival_at,
    survival_from_logits,
    to_intervals,
)
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.scoring import Predictions, Scoring
from mil_toolkit.evaluation.survival_metrics import grid_of, metrics_at
from mil_toolkit.evaluation.survival_residuals import deviance_residuals
from mil_toolkit.outcomes.outcome import Lack, Outcome, OutcomeRow, Parsed
from mil_toolkit.outcomes.survival_columns import read_survival
from mil_toolkit.outcomes.survival_text import SurvivalText
from mil_toolkit.outcomes.words import Words, words_by_key

INTERVALS = 8  # of time, each of which has about as many events
BY_HORIZON = {1: "event-by-horizon", 0: "no-event-by-horizon"}  # the strata


@dataclass(frozen=True)
class SurvivalRule:
    """The mapping from logits of hazards to risk and survival.

    horizon: the time of the risk; cuts: the ends of the intervals of the hazards
    slope, intercept: the calibrated logit of each hazard is slope * logit + intercept
    """

    horizon: float
    cuts: tuple[float, ...]
    slope: float = 1.0
    intercept: float = 0.0
    kind: Literal["survival"] = "survival"

    def predict(self, outputs: np.ndarray) -> Predictions:
        """Return the risk at the horizon and the survival at the times of the grid, (..., n, 1 + G).

        outputs: (..., n, C), of which the first T belong to the T intervals
        """
        survival = self.survival(outputs, grid_of(self.horizon))
        values = np.concatenate([1 - survival[..., -1:], survival], axis=-1)
        return Predictions(values, np.zeros(values.shape[:-1]))

    def survival(self, outputs: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return the survival at these times (m,), constant after the last cut point: (..., n, m)."""
        hazards = self.slope * outputs[..., : len(self.cuts)] + self.intercept
        return survival_at(times, np.array(self.cuts), survival_from_logits(hazards))

    @property
    def constants(self) -> dict[str, float]:
        """None: the horizon is that of the outcome."""
        return {}

    def intervals(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return no columns: a risk has no prediction interval."""
        return {}

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the numbers."""
        if not (self.horizon > 0 and self.slope > 0):
            yield f"the horizon {self.horizon} and the slope {self.slope} are not both above 0"
        if self.horizon not in self.cuts or list(self.cuts) != sorted(set(self.cuts)) or self.cuts[0] <= 0:
            yield "the cut points are not ascending times above 0, one of which is the horizon"


@dataclass(frozen=True)
class Survival(Outcome):
    """Times and events; targets: (n, 2) of time and of 1 (event) or 0 (censored), both -1 if unlabelled.

    time, event: the columns; horizon: the time by which risks are predicted, in the unit of the times
    unlabelled: its words, which stand in both columns
    """

    kind: ClassVar[str] = "survival"
    own_keys: ClassVar[frozenset[str]] = frozenset({"time", "event", "horizon"})
    fixed_keys: ClassVar[tuple[str, ...]] = ("horizon",)

    time: str | None = None
    event: str | None = None
    horizon: int | float | None = None
    unlabelled: Words | None = None

    def missing_keys(self, given: Collection[str]) -> list[str]:
        """Return those of `time`, `event` and `horizon` that `[cohort]` lacks."""
        return [key for key in ("time", "event", "horizon") if key not in given]

    def declaration_problems(self, given: Collection[str]) -> Iterator[str]:
        """Yield whether the horizon is not above 0, or both columns are the same."""
        if self.horizon is not None and not 0 < self.horizon < math.inf:
            yield f"horizon must be above 0, in the unit of the times, not {self.horizon:g}."
        if self.time is not None and self.time == self.event:
            yield f"time and event are both {self.time!r}; they need a column each."

    @property
    def table_columns(self) -> dict[str, str]:
        """The columns of times and events."""
        return {key: column for key in ("time", "event") if (column := getattr(self, key)) is not None}

    def parse(self, rows: Sequence[OutcomeRow], decimal: str) -> Parsed:
        """Return time and event of each row."""
        if self.time is None or self.event is None:
            return Parsed(np.full((len(rows), 2), -1.0), [])
        words = words_by_key(unlabelled=self.unlabelled).get("unlabelled", ())
        return read_survival(rows, (self.time, self.event), decimal, words)

    def known(self, targets: np.ndarray) -> np.ndarray:
        """Return which patients have a time and an event, (n,) bool."""
        return np.asarray((targets >= 0).all(-1))

    @property
    def by(self) -> float:
        """The horizon; 1 if none is declared."""
        return float(self.horizon or 1)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return whether each patient has the event up to the horizon, (n,) of 0 and 1."""
        return np.asarray((targets[:, 1] == 1) & (targets[:, 0] <= self.by)).astype(int)

    @property
    def stratum_names(self) -> dict[int, str]:
        """Both strata."""
        return BY_HORIZON

    def lack(self, targets: np.ndarray) -> Lack | None:
        """Return that all patients are censored, none has an early event, or follow-up ends too early."""
        times, events = targets[:, 0], targets[:, 1] == 1
        if not events.any():
            return Lack("patients who are all censored", "Patients with the event must be among")
        if not self.strata(targets).any():
            first = f"none of {int(events.sum())} events happened up to the horizon of {self.by:g}"
            what = f"patients whose first event is at {times[events].min():g}: {first}"
            return Lack(what, "Choose a later horizon, by which events have happened among")
        if times.max() < self.by:
            what = f"patients who were followed up to {times.max():g}, before the horizon of {self.by:g}"
            return Lack(what, "Choose an earlier horizon, within the follow-up of")
        return None

    @property
    def outputs(self) -> int:
        """The logit of the hazard in each interval; fewer are used where event times coincide."""
        return INTERVALS

    def fitted(self, targets: np.ndarray) -> "FittedSurvival":
        """Return the outcome with cut points between intervals of time with about as many events."""
        cuts = choose_cuts(targets[:, 0], targets[:, 1] == 1, INTERVALS, self.by)
        declared = {field.name: getattr(self, field.name) for field in fields(Survival)}
        return FittedSurvival(**declared, cuts=tuple(map(float, cuts)))

    def training_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the number of outlived intervals, and whether the event follows, (n, 2)."""
        raise NotImplementedError("an outcome without cut points; see `fitted`")

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return the weights and intercepts of a regression of the hazards, (M + 1, outputs)."""
        raise NotImplementedError("an outcome without cut points; see `fitted`")

    @property
    def scoring(self) -> Scoring:
        """Times and events, the risk at the horizon, and the survival up to then."""
        return Scoring(
            targets=("time", "event"),
            values=("risk", *(f"survival:{time:g}" for time in grid_of(self.by))),
            decision=None,
            constants=(),
            bounds=(0.0, 1.0),
            metrics=metrics_at(self.by),
            decisions=(0,),
            discrimination="concordance_harrell",
            decided=lambda column: column,
            decide=lambda values, constants: np.zeros(values.shape[:-1]),
            pooled=None,  # the survival at some times does not determine the hazards
            strata=self.strata,
            scorable=lambda targets: self.lack(targets) is None,
            errors=lambda targets, values: np.abs(values[..., 0] - self.strata(targets)),
            rank=lambda values: values[..., 0],
            rank_strata=BY_HORIZON,
            reliability=False,
            epoch_metrics=("integrated_brier", "concordance_harrell"),
            surprises=lambda targets, values: np.abs(deviance_residuals(targets, values, self.by)),
        )

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return risk and survival without calibration."""
        raise NotImplementedError("an outcome without cut points; see `fitted`")

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> SurvivalRule:
        """Fit the calibration of the hazards to out-of-fold logits (n, C)."""
        raise NotImplementedError("an outcome without cut points; see `fitted`")

    def check_rule(self, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None) -> None:
        """Raise UsageError without scikit-survival, which the baselines need after the training."""
        import_extra("sksurv", "survival", "The outcome survival")

    @property
    def text(self) -> SurvivalText:
        """Sentences about the risk at the horizon."""
        return SurvivalText(self.by)

    @classmethod
    def parse_decision(cls, value: Json) -> SurvivalRule:
        """Return horizon, cut points and calibration from JSON."""
        return msgspec.convert(value, SurvivalRule)


@dataclass(frozen=True)
class FittedSurvival(Survival):
    """Survival with the ends of the intervals of time, chosen on the training patients of a search."""

    cuts: tuple[float, ...] = ()

    def fitted(self, targets: np.ndarray) -> "FittedSurvival":
        """Return the outcome itself, with the cut points that it has."""
        return self

    def training_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the number of outlived intervals, and 1 if the event follows in the next, (n, 2)."""
        return np.stack(to_intervals(targets[:, 0], targets[:, 1] == 1, np.array(self.cuts)), axis=-1).astype(
            np.float32
        )

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return a logistic regression of the hazards, with an intercept for each interval."""
        return hazard_regression(x, targets, self, 1.0)

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return risk and survival without calibration."""
        return Predicted(targets, *SurvivalRule(self.by, self.cuts).predict(outputs), folds)

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> SurvivalRule:
        """Fit slope and intercept of the hazards' logits; an interval of a patient counts as a prediction."""
        intervals = to_intervals(targets[:, 0], targets[:, 1] == 1, np.array(self.cuts))
        patient, interval, event = hazard_rows(intervals)
        return SurvivalRule(self.by, self.cuts, *fit_calibration(outputs[patient, interval], event))


def hazard_regression(
    x: np.ndarray, targets: np.ndarray, outcome: FittedSurvival, strength: float
) -> np.ndarray:
    """Return weights and intercepts of the logits of the hazards, (M + 1, outputs).

    A logistic regression over the intervals that each patient enters, with the same weights in all of them
    and an intercept for each (Cox 1972, section 6): x (n, M), strength inverse to the penalty.
    """
    from sklearn.linear_model import LogisticRegression  # to apply a model, it is not needed

    intervals = to_intervals(targets[:, 0], targets[:, 1] == 1, np.array(outcome.cuts))
    patient, interval, event = hazard_rows(intervals)
    used = len(outcome.cuts)
    rows = np.concatenate([x[patient], np.eye(used)[interval]], axis=1)
    if event.all():  # nobody outlives an interval
        return np.zeros((x.shape[1] + 1, outcome.outputs))
    regression = LogisticRegression(C=strength, max_iter=2000).fit(rows, event)
    weights, shifts = regression.coef_[0][:-used], regression.coef_[0][-used:]
    start = np.zeros((x.shape[1] + 1, outcome.outputs))
    start[:-1] = weights[:, None]
    start[-1, :used] = shifts + regression.intercept_[0]
    return start
