"""`ClassesText`: the parts of sentences about an outcome of several classes."""

from collections.abc import Iterator, Mapping, Sequence

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.text import by_name, count_of
from mil_toolkit.evaluation.words import number
from mil_toolkit.outcomes.text import OutcomeText


class ClassesText(OutcomeText):
    """Parts of sentences that name all classes."""

    def task(self, names: Sequence[str]) -> str:
        """Return which patients are distinguished."""
        return f"distinguishes patients of {len(names)} classes ({', '.join(names)})"

    def definition(self, names: Sequence[str]) -> str:
        """Return all classes."""
        return f"one of {len(names)} classes: {', '.join(names)}"

    def data(self, names: Sequence[str], counts: Sequence[int]) -> str:
        """Return the patients of each class by name."""
        return f", by class {by_name(names, counts)}"

    def analysed(self, counts: Sequence[int], strata: Sequence[int]) -> str:
        """Return the patients of each class."""
        return f"patients of each class, in the declared order: {', '.join(map(str, counts))}"

    def prediction(self, names: Sequence[str], values: Sequence[float]) -> str:
        """Return the probability of each class."""
        return f"probabilities {by_name(names, [number(value) for value in values])}"

    def columns(self, names: Sequence[str], constants: Mapping[str, float]) -> str:
        """Return the columns of probabilities, prediction and spread."""
        shares = by_name(names, [number(share) for share in constants.values()])
        return (
            "the calibrated probability of each class (`probability:NAME`), the prediction (the number of a"
            " class, from 0 in the declared order: that whose probability is the largest multiple of its"
            " share"
            f" among the training patients, {shares}) and the spread of each class (`spread:NAME`): the"
            " standard deviation of the members' own probabilities"
        )

    def weights(self, rule: ThresholdRule) -> str:
        """Return the weights of the classes and the rule of the decision."""
        return (
            "All classes have the same total weight in the loss unless the search decides otherwise; the"
            " class is predicted whose probability is the largest multiple of its share."
        )

    def calibration(self, rule: ThresholdRule) -> str:
        """Return the method of calibration and the rule of the decision."""
        return (
            "by a temperature and a bias for each class (Guo et al. 2017). The class is predicted whose"
            " probability is the largest multiple of its share"
        )

    def fitted(self, rule: ThresholdRule) -> str:
        """Return the calibration, which includes the shares of the classes."""
        return "Calibration and the shares of the classes, which decide,"

    def limits(self, counts: Sequence[int]) -> Iterator[str]:
        """Yield the size of the smallest class, and the shares of the classes."""
        yield (
            f"The smallest class has {count_of(min(counts), 'patient')}. The intervals are for new patients"
            " of this population; another hospital may lie outside of them."
        )
        yield (
            "Its probabilities are calibrated for a population with the shares of the classes of this cohort,"
            " and are biased where these differ. A patient of none of the classes gets one of them all the"
            " same."
        )
