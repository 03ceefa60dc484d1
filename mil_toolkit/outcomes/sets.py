"""`PredictionSets`: sets of classes, or intervals, that contain the outcome with a stated probability.

See `evaluation.conformal` for the method.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from mil_toolkit.evaluation.conformal import HeldOutScores, class_sets

SET, SET_LOW, SET_HIGH = "set", "set_low", "set_high"
SEPARATOR = " | "  # between the names of classes
SIGNS, EITHER = ("negative", "positive"), "either"  # the sets of two classes


class Covered(NamedTuple):
    """Whether the set of each patient contains the outcome, and whether it has several classes, (n,) bool."""

    inside: np.ndarray
    several: np.ndarray


class PredictionSets(Protocol):
    """How a model answers with a set of outcomes, given the nonconformity scores of held-out patients.

    Values and targets are those of the outcome, of n patients. A calibration has the scores of each class, or
    of all patients if there are no classes.

    answer: what a set is, in the plural; bounded: the patients to whom `evaluation.conformal.coverage_bound`
        applies
    """

    answer: ClassVar[str]
    bounded: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, as they are to be shown; empty if the sets are intervals."""
        ...

    def held_out(self, values: np.ndarray, targets: np.ndarray, units: np.ndarray) -> list[HeldOutScores]:
        """Return the calibration by predictions on held-out patients; units: (n,), see `HeldOutScores`."""
        ...

    def covered(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, targets: np.ndarray, alpha: float
    ) -> Covered:
        """Return what the sets of patients with these targets contain."""
        ...

    def columns(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, alpha: float
    ) -> dict[str, list[str] | np.ndarray]:
        """Return the columns of a table of predictions that hold the set of each patient."""
        ...

    def members(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, alpha: float
    ) -> np.ndarray | None:
        """Return which classes the set of each patient contains, (n, C) bool; None if sets are intervals."""
        ...

    def shortages(self, calibration: Sequence[HeldOutScores], alpha: float) -> Iterator[str]:
        """Yield which held-out patients are too few for this rate, a sentence each."""
        ...


@dataclass(frozen=True)
class ClassSets(PredictionSets):
    """Sets of classes.

    classes: the names of the C classes, as they are to be shown
    scores: returns the nonconformity of each class (..., C) from predicted values
    everything: what the set of all classes is called; None to name them
    """

    classes: tuple[str, ...]
    scores: Callable[[np.ndarray], np.ndarray]
    everything: str | None = None

    answer: ClassVar[str] = "sets of classes, separately for each class"
    bounded: ClassVar[str] = "within the smallest class"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.classes

    def held_out(self, values: np.ndarray, targets: np.ndarray, units: np.ndarray) -> list[HeldOutScores]:
        """Return the scores of the patients of each class for their own class."""
        scores = self.scores(values)  # (n, C)
        return [
            HeldOutScores.of(scores[targets == number, number], units[targets == number])
            for number in range(scores.shape[-1])
        ]

    def covered(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, targets: np.ndarray, alpha: float
    ) -> Covered:
        """Return whether the sets contain the classes (n,), and whether they have others too."""
        sets = class_sets(calibration, self.scores(values), alpha)
        return Covered(sets[np.arange(len(targets)), targets.astype(int)], sets.sum(-1) > 1)

    def columns(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, alpha: float
    ) -> dict[str, list[str] | np.ndarray]:
        """Return the names of the classes, in the column `set`."""
        return {SET: [self._name(row) for row in self.members(calibration, values, alpha)]}

    def members(self, calibration: Sequence[HeldOutScores], values: np.ndarray, alpha: float) -> np.ndarray:
        """Return which classes the set of each patient contains, (n, C) bool."""
        return class_sets(calibration, self.scores(values), alpha)

    def _name(self, row: np.ndarray) -> str:
        if self.everything is not None and row.all():
            return self.everything
        return SEPARATOR.join(name for name, inside in zip(self.names, row, strict=True) if inside)

    def shortages(self, calibration: Sequence[HeldOutScores], alpha: float) -> Iterator[str]:
        """Yield the classes that every set contains."""
        for name, known in zip(self.names, calibration, strict=False):
            if not known.suffices(alpha):
                yield (
                    f"Every set contains {name}: its {known.units} independent held-out patients are too few"
                    " to exclude it at this rate."
                )


@dataclass(frozen=True)
class Intervals(PredictionSets):
    """Intervals around predicted numbers, of the same width for all patients.

    logarithms: whether the width is that of the logarithms
    """

    logarithms: bool

    answer: ClassVar[str] = "intervals"
    bounded: ClassVar[str] = "of all patients"

    @property
    def names(self) -> tuple[str, ...]:
        """No names."""
        return ()

    def _distances(self, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
        difference = np.log(targets) - np.log(values) if self.logarithms else targets - values
        return np.asarray(np.abs(difference))

    def held_out(self, values: np.ndarray, targets: np.ndarray, units: np.ndarray) -> list[HeldOutScores]:
        """Return the distances of predictions and targets of all patients, a single entry."""
        return [HeldOutScores.of(self._distances(values, targets), units)]

    def covered(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, targets: np.ndarray, alpha: float
    ) -> Covered:
        """Return whether the intervals contain the targets."""
        inside = self._distances(values, targets) <= calibration[0].margin(alpha)
        return Covered(inside, np.zeros(len(targets), dtype=bool))

    def columns(
        self, calibration: Sequence[HeldOutScores], values: np.ndarray, alpha: float
    ) -> dict[str, list[str] | np.ndarray]:
        """Return the ends of the intervals, `set_low` and `set_high` (n,), which may be infinite."""
        margin = calibration[0].margin(alpha)
        if not self.logarithms:
            return {SET_LOW: values - margin, SET_HIGH: values + margin}
        with np.errstate(over="ignore"):
            return {SET_LOW: values * np.exp(-margin), SET_HIGH: values * np.exp(margin)}

    def members(self, calibration: Sequence[HeldOutScores], values: np.ndarray, alpha: float) -> None:
        """Return None: intervals contain no classes."""

    def shortages(self, calibration: Sequence[HeldOutScores], alpha: float) -> Iterator[str]:
        """Yield that all intervals are infinite, where they are."""
        known = calibration[0]
        if not known.suffices(alpha):
            yield f"Every interval is infinite: {known.units} independent held-out patients are too few."
