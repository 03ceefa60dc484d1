"""`OutcomeText`: the parts of sentences that reports and model cards need of a kind of outcome."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from mil_toolkit.config.study import ThresholdRule


class OutcomeText(Protocol):
    """Parts of sentences about an outcome.

    names: of the classes, as they are to be shown; counts: patients of each class. Both are empty for an
    outcome without classes.
    """

    def task(self, names: Sequence[str]) -> str:
        """Return what a model does, after "This model"."""
        ...

    def definition(self, names: Sequence[str]) -> str:
        """Return what is predicted."""
        ...

    def data(self, names: Sequence[str], counts: Sequence[int]) -> str:
        """Return how the outcome is distributed, after "60 labelled patients", or nothing."""
        ...

    def analysed(self, counts: Sequence[int], strata: Sequence[int]) -> str:
        """Return the counts of patients by outcome; strata: of each patient, see `Outcome.strata`."""
        ...

    def stratum(self, name: str) -> str:
        """Return the patients of a stratum in words, given its name in `Scoring.rank_strata`."""
        return name

    def prediction(self, names: Sequence[str], values: Sequence[float]) -> str:
        """Return the predicted values of a patient; values: those of `Scoring.values`, in their order."""
        ...

    def further(self, columns: Mapping[str, float]) -> str:
        """Return what is predicted beyond `prediction`, a sentence; empty if there is nothing.

        columns: the predicted values after the first one, by the names of their columns
        """
        return ""

    def columns(self, names: Sequence[str], constants: Mapping[str, float]) -> str:
        """Return what predictions.csv holds for each patient; constants: of the decision rule."""
        ...

    def weights(self, rule: ThresholdRule) -> str:
        """Return how imbalance is dealt with."""
        ...

    def calibration(self, rule: ThresholdRule) -> str:
        """Return what out-of-fold logits give, after "gave the calibration"."""
        ...

    def fitted(self, rule: ThresholdRule) -> str:
        """Return what is fitted on out-of-fold predictions, before "were fitted"."""
        ...

    @property
    def rule(self) -> str:
        """What turns outputs of a head into predictions, as one noun."""
        return "calibration"

    @property
    def fitted_in_folds(self) -> str:
        """What is fitted on the training patients of an outer fold, after "search"."""
        return " and calibration"

    @property
    def intervals(self) -> str:
        """The methods of the intervals of scores, after "Scores have 95 % intervals: "."""
        return "by the influence of each patient on the score, on a scale that suits its range"

    @property
    def assessed(self) -> str:
        """How calibration and clinical use are assessed, a sentence; empty without one."""
        return ""

    def no_shuffle(self, folds: str, attempts: str, problem: str) -> str:
        """Return that no shuffle of the outcomes leaves folds to score; problem: of the last, a sentence."""
        return f"shuffled outcomes left no {folds} that can be scored, {attempts}. In the last one: {problem}"

    def limits(self, counts: Sequence[int]) -> Iterator[str]:
        """Yield what the number of patients and the calibration do not allow."""
        ...
