"""`NumberText`: the parts of sentences about an outcome that is a number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.text import printable
from mil_toolkit.outcomes.text import OutcomeText


@dataclass(frozen=True)
class NumberText(OutcomeText):
    """Parts of sentences about a predicted number.

    target: name of the column; unit: None if none is declared; logarithm: whether its logarithm is learned
    """

    target: str
    unit: str | None
    logarithm: bool

    @property
    def name(self) -> str:
        """The target with its unit."""
        return printable(self.target) + (f" ({printable(self.unit)})" if self.unit else "")

    def task(self, names: Sequence[str]) -> str:
        """Return which number is predicted."""
        return f"predicts a number, {self.name}"

    def definition(self, names: Sequence[str]) -> str:
        """Return the target."""
        return f"a number, {self.name}" + (", learned on the logarithmic scale" if self.logarithm else "")

    def data(self, names: Sequence[str], counts: Sequence[int]) -> str:
        """Return nothing: there are no classes."""
        return ""

    def analysed(self, counts: Sequence[int], strata: Sequence[int]) -> str:
        """Return that all have a target."""
        return f"all with a known {self.name}"

    def prediction(self, names: Sequence[str], values: Sequence[float]) -> str:
        """Return the number with its unit."""
        return f"{printable(self.target)} {values[0]:.4g}" + (f" {printable(self.unit)}" if self.unit else "")

    def columns(self, names: Sequence[str], constants: Mapping[str, float]) -> str:
        """Return the columns of the number, its interval and the spread."""
        return (
            f"the predicted {self.name}, the ends low and high of its 95 % prediction interval (empty if the"
            " model was fitted on fewer than 19 patients), and the spread: the standard deviation of the"
            " members' own predictions"
        )

    def weights(self, rule: ThresholdRule) -> str:
        """Return the loss and the scale of the target."""
        scale = "logarithm of the target" if self.logarithm else "target"
        return f"All patients have the same weight in the loss, the Huber loss of the standardised {scale}."

    def calibration(self, rule: ThresholdRule) -> str:
        """Return the recalibration and the source of the prediction interval."""
        return (
            "by slope and intercept (least squares) and, by their residuals, the width of the 95 % prediction"
            " interval"
        )

    def fitted(self, rule: ThresholdRule) -> str:
        """Return recalibration and prediction interval."""
        return "Recalibration and prediction interval"

    def limits(self, counts: Sequence[int]) -> Iterator[str]:
        """Yield for whom the intervals hold."""
        yield (
            "The intervals are for new patients of this population; another hospital may lie outside of them."
        )
        yield (
            "A prediction interval covers about 95 % of new patients as a whole. It has the same width"
            f" {'as a ratio ' if self.logarithm else ''}for all patients, and may be too narrow for extreme"
            " values. Numbers outside the range of the training patients are extrapolated."
        )
