"""`Measure`: a metric of an outcome of any kind, with the scale on which its interval is formed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

P = TypeVar("P")  # what is scored: the predictions of a kind of outcome
STEP = 1e-6  # of a patient's weight, for a derivative
PRIOR_ERRORS = 2.0  # weight of the assumed variance, in patients that are predicted wrongly
Scale = Literal["share", "count", "positive", "correlation", "explained"]


@dataclass(frozen=True)
class Measure(Generic[P]):
    """A score, its direction, and how its interval is formed; see measure_intervals.py.

    of: computes the scores (...) from predictions and weights (..., n) of the patients
    scale: range of the score: "share" 0 to 1, "count" a mean of small counts, "positive" above 0,
        "correlation" -1 to 1, "explained" below 1
    training: the variance of a score from cross-validation on n patients is (1 + training / n) times that
        over patients who are predicted by given models; found by benchmarks/coverage_kinds.py --unwidened
    balanced: whether classes of different sizes have the same weight in the score
    influence: computes the influence (n,) of each patient on the score of predictions without leading axes;
        None takes the derivative numerically, which is slow for pairs of thousands of patients
    through_training: computes the influence (n,) through models that are trained on the same cohort
    costs: computes the loss (n,) that each patient would have if it was predicted wrongly; None for scores
        that are not means of losses
    """

    of: Callable[[P, np.ndarray], np.ndarray]
    scale: Scale
    higher_is_better: bool = True
    training: float = 0.0
    balanced: bool = False
    influence: Callable[[P], np.ndarray] | None = None
    through_training: Callable[[P], np.ndarray] | None = None
    costs: Callable[[P], np.ndarray] | None = None

    def score(self, predicted: P, count: int) -> float:
        """Return the score of the predictions of `count` patients who all have the weight 1."""
        return float(self.of(predicted, np.ones(count)))
