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

    def prediction(self, names: Sequence[str], values: Sequence[float]) -> str:
        """Return the probability of the positive class."""
        return f"probability of {names[1]} {number(values[0])}"

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

    @property
    def rule(self) -> str:
        """The rule of the threshold."""
        return "threshold rule"

    @property
    def fitted_in_folds(self) -> str:
        """Calibration and threshold."""
        return ", calibration and threshold"

    @property
    def intervals(self) -> str:
        """The methods for proportions and areas."""
        return (
            "proportions by Wilson's method (Wilson 1927) and combinations of it (Zou 2008), the area under"
            " the ROC curve by the method of DeLong (DeLong 1988) with the variance of Newcombe (Newcombe"
            " 2006)"
        )

    @property
    def assessed(self) -> str:
        """The sources for calibration and net benefit."""
        return (
            "Calibration was assessed by intercept, slope and a smooth curve (Van Calster 2019), clinical use"
            " by net benefit (Vickers 2006)."
        )

    def no_shuffle(self, folds: str, attempts: str, problem: str) -> str:
        """Return that no folds have both classes; the problem is always that."""
        return (
            f"shuffled labels left no {folds} with both classes, {attempts}. There are too few patients of"
            " the smaller class."
        )

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
