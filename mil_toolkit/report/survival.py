"""The figures of a study of survival that its report draws and tabulates."""

from dataclasses import dataclass, replace

import numpy as np

from mil_toolkit.evaluation.comparisons import differences
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.evaluation.records import Estimate, Score
from mil_toolkit.evaluation.survival_calibration import (
    ObservedRisk,
    RiskGroup,
    calibration_at_horizon,
    risk_at,
    widening_of_groups,
)
from mil_toolkit.evaluation.survival_curves import LogRank, censoring_curve, log_rank, survival_curve
from mil_toolkit.evaluation.survival_groups import cross_validated_log_rank, null_table, predicted_thirds
from mil_toolkit.evaluation.table import Table

BRIER = ("integrated_brier", "brier_at_horizon")
MOST_GROUPS, FEWEST_OF_GROUP = 5, 10  # of the calibration: groups, and patients of each
_NAMES = {1: ("all",), 2: ("lower", "higher"), 3: ("low", "middle", "high")}


@dataclass(frozen=True)
class Third:
    """Patients of similar predicted risk: times (n,), events (n,) bool, and their risks at the horizon."""

    name: str
    times: np.ndarray
    events: np.ndarray
    predicted: float
    observed: ObservedRisk


@dataclass(frozen=True)
class Thirds:
    """The patients by third of the predicted risk, lowest first, and the test that all survive equally.

    test: takes the thirds as given
    corrected: see `cross_validated_log_rank`; None if a single model made all predictions
    """

    groups: list[Third]
    test: LogRank
    corrected: LogRank | None


def thirds(table: Table, horizon: float) -> Thirds:
    """Return the thirds of the predictions of a study, or fewer groups if risks are equal."""
    times, events = times_and_events(table)
    risks, places = table.probabilities[..., 0].mean(0), predicted_thirds(table)
    names, widening = _NAMES[int(places.max()) + 1], widening_of_groups(table.cross_validated)
    groups = [
        Third(
            name,
            times[places == place],
            events[places == place],
            float(risks[places == place].mean()),
            risk_at(times[places == place], events[places == place], horizon, widening),
        )
        for place, name in enumerate(names)
    ]
    test = log_rank(times, events, places)
    return Thirds(groups, test, None if table.one_model else cross_validated_log_rank(test))


def times_and_events(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (n,) and whether each is that of an event, (n,) bool."""
    return table.labels[:, 0].astype(float), table.labels[:, 1] == 1


@dataclass(frozen=True)
class Calibration:
    """Predicted and observed risk at the horizon, of all patients and of groups of similar risk.

    ratio: observed divided by predicted risk; None if the predicted risk is 0 or the observed one unknown
    """

    predicted: float
    observed: ObservedRisk
    ratio: Estimate | None
    groups: list[RiskGroup]


def calibration(table: Table, horizon: float) -> Calibration:
    """Return the calibration at the horizon; the interval of the ratio is that of the observed risk.

    McLernon et al. 2023, "Assessing performance and clinical usefulness in prediction models with survival
    outcomes".
    """
    (times, events), risks = times_and_events(table), table.probabilities[..., 0].mean(0)
    observed, predicted = risk_at(times, events, horizon), float(risks.mean())
    ratio = None
    if predicted > 0 and observed.followed_to is None:
        ends = (observed.value, observed.low, observed.high)
        ratio = Estimate(*(end / predicted for end in ends))
    count = max(1, min(MOST_GROUPS, len(times) // FEWEST_OF_GROUP))
    widening = widening_of_groups(table.cross_validated)
    groups = calibration_at_horizon(times, events, risks, horizon, count, widening)
    return Calibration(predicted, observed, ratio, groups)


@dataclass(frozen=True)
class NullModel:
    """The Brier scores of the null model, see `null_table`, and those of the model minus these, by metric."""

    table: Table
    scores: dict[str, Score]
    differences: dict[str, Estimate]

    @property
    def words(self) -> str:
        """What the null model predicts."""
        if self.table.one_model:
            return "the Kaplan-Meier curve of these same patients for everyone, which favours it"
        return "the Kaplan-Meier curve of the training patients of each fold for everyone"


def null_model(table: Table, horizon: float) -> NullModel:
    """Return the null model of the folds of a study."""
    scoring = table.scoring
    brier = replace(scoring, metrics={name: scoring.metrics[name] for name in BRIER})
    own, null = (replace(part, scoring=brier) for part in (table, null_table(table, horizon)))
    return NullModel(null, scores_with_intervals(null), differences(own, null))


def median_survival(times: np.ndarray, events: np.ndarray) -> float | None:
    """Return the time at which half of the patients had the event; None if it was not reached."""
    curve = survival_curve(times, events)
    return _first_below_half(curve.times, curve.values)


def median_follow_up(times: np.ndarray, events: np.ndarray) -> float | None:
    """Return the median time of follow-up, by the reverse Kaplan-Meier curve (Schemper and Smith 1996)."""
    curve = censoring_curve(times, events)
    return _first_below_half(curve.times, curve.values)


def _first_below_half(times: np.ndarray, values: np.ndarray) -> float | None:
    reached = times[values <= 0.5]
    return float(reached[0]) if len(reached) else None
