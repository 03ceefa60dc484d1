"""`SurvivalText`: the parts of sentences about the time to an event."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import number
from mil_toolkit.outcomes.text import OutcomeText

_STRATA = {
    "event-by-horizon": "patients with an event up to the horizon",
    "no-event-by-horizon": "all other patients",
}


@dataclass(frozen=True)
class SurvivalText(OutcomeText):
    """Parts of sentences about the risk of an event up to a horizon, in the unit of the times."""

    horizon: float

    def task(self, names: Sequence[str]) -> str:
        """Return that risks are predicted."""
        return f"predicts the risk of the event up to the time {self.horizon:g} (the horizon)"

    def definition(self, names: Sequence[str]) -> str:
        """Return the horizon."""
        return f"time to the event, with censoring; the risk of the event up to the time {self.horizon:g}"

    def data(self, names: Sequence[str], counts: Sequence[int]) -> str:
        """Return nothing."""
        return ""

    def analysed(self, counts: Sequence[int], strata: Sequence[int]) -> str:
        """Return the number of early events."""
        return (
            f"{count_of(sum(strata), 'patient')} with an event up to the time {self.horizon:g},"
            f" {len(strata) - sum(strata)} without, some of whom were censored before"
        )

    def stratum(self, name: str) -> str:
        """Return the patients with or without an early event."""
        return _STRATA.get(name, name)

    def prediction(self, names: Sequence[str], values: Sequence[float]) -> str:
        """Return the risk at the horizon."""
        return f"risk of the event up to the time {self.horizon:g} {number(values[0])}"

    def further(self, columns: Mapping[str, float]) -> str:
        """Return the probability of no event up to each time."""
        curve = ", ".join(f"{name.partition(':')[2]}: {number(value)}" for name, value in columns.items())
        return f"Probability of no event up to each time: {curve}."

    def columns(self, names: Sequence[str], constants: Mapping[str, float]) -> str:
        """Return the columns of risk, survival and spread."""
        return (
            f"the risk of the event up to the time {self.horizon:g}, the survival (the probability of no"
            " event) at ten times up to then, and the spread: the standard deviation of the members' own"
            " values"
        )

    def weights(self, rule: ThresholdRule) -> str:
        """Return that all patients count the same."""
        return "All patients have the same weight in the loss."

    def calibration(self, rule: ThresholdRule) -> str:
        """Return the method of calibration."""
        return "of the hazards by slope and intercept (Platt 1999), from which risk and survival follow"

    def fitted(self, rule: ThresholdRule) -> str:
        """Return the calibration."""
        return "Slope and intercept of the hazards"

    def limits(self, counts: Sequence[int]) -> Iterator[str]:
        """Yield what the follow-up and the calibration do not allow."""
        yield (
            f"It says nothing about times after {self.horizon:g}, and does not account for competing risks:"
            " another event that rules out the predicted one counts as censoring."
        )
        yield (
            "Its risks assume that patients are censored independently of their risk. They hold for new"
            " patients of this population; another hospital may lie outside of the intervals."
        )
