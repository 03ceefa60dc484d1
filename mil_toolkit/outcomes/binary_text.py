"""`BinaryText`: the parts of sentences about an outcome of two classes."""

from collections.abc import Iterator, Mapping, Sequence

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import number, threshold_rule
from mil_toolkit.outcomes.text import OutcomeText


class BinaryText(OutcomeText):
    """Parts of sentences in which class 1 is positive and class 0 negative."""

    def task(self, names: Sequence[str]) -> str:
        """Return which patients are distinguished."""
        return f"distinguishes {names[1]} (positive) from {names[0]} (negative) patients"

    def definition(self, names: Sequence[str]) -> str:
        """Return both classes."""
        return f"{names[1]} (positive) against {names[0]} (negative)"

    def data(self, names: Sequence[str], counts: Sequence[int]) -> str:
        """Return the patients of both classes by name."""
        return f", of which {counts[1]} are {names[1]} and {counts[0]} {names[0]}"

    def analysed(self, counts: Sequence[int], strata: Sequence[int]) -> str:
        """Return the patients of both classes."""
        return f"{counts[1]} positive, {counts[0]} negative"

    def columns(self, names: Sequence[str], constants: Mapping[str, float]) -> str:
        """Return the columns of probability, prediction and spread."""
        return (
            f"the calibrated probability of {names[1]}, the prediction (positive at or above"
            f" {number(constants['threshold'])}) and the spread: the standard deviation of the members' own"
            " probabilities"
        )

    def weights(self, rule: ThresholdRule) -> str:
        """Return the weights of the classes and the rule of the threshold."""
        weighted = "Both classes have the same total weight in the loss unless the search decides otherwise"
        return f"{weighted}; threshold: {threshold_rule(rule)}."

    def calibration(self, rule: ThresholdRule) -> str:
        """Return the method of calibration and the rule of the threshold."""
        return f"by slope and intercept (Platt 1999) and then the decision threshold: {threshold_rule(rule)}"

    def fitted(self, rule: ThresholdRule) -> str:
        """Return calibration and threshold."""
        return f"Calibration and threshold ({threshold_rule(rule)})"

    def limits(self, counts: Sequence[int]) -> Iterator[str]:
        """Yield the size of the smaller class, and the share of positives."""
        yield (
            f"The smaller class has {count_of(min(counts), 'patient')}. The intervals are"
            " for new patients of this population; another hospital may lie outside of them."
        )
        yield (
            f"Its probabilities are calibrated for a population with {100 * counts[1] / sum(counts):.0f} %"
            " positive patients, and are biased where that share differs."
        )
