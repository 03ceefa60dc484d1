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

    def limits(self, counts: Sequence[int]) -> Iterator[str]:
        """Yield what the number of patients and the calibration do not allow."""
        ...
