"""`Ordered`: an outcome of several classes whose declared order is that of a grade or a stage."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec
import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.records import Json
from mil_toolkit.evaluation.class_calibration import SoftmaxDecision, fit_class_decision, last_largest
from mil_toolkit.evaluation.class_metrics import ORDERED_METRICS
from mil_toolkit.evaluation.class_scoring import class_scoring
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.ordered_classes import ordered_log_probabilities
from mil_toolkit.evaluation.scoring import Scoring
from mil_toolkit.outcomes.classes import Classes

FEWEST = 3  # classes that have an order
SMALLEST_STEP = 1e-3  # between two cumulative logits


@dataclass(frozen=True)
class OrderedDecision(SoftmaxDecision):
    """A `SoftmaxDecision` of ordered classes; its logits are log-probabilities of a cumulative link model."""

    kind: Literal["ordered"] = "ordered"

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of the classes (..., C) from outputs (..., C - 1)."""
        return ordered_log_probabilities(outputs)


@dataclass(frozen=True)
class Ordered(Classes):
    """A label of C ordered classes, lowest first, which a cumulative link model predicts; see `Classes`."""

    kind: ClassVar[str] = "ordered"
    own_keys: ClassVar[frozenset[str]] = frozenset({"ordered"})

    ordered: bool = True

    def missing_keys(self, given: Collection[str]) -> list[str]:
        """Return those of `label` and `classes` that `[cohort]` lacks."""
        return [key for key in ("label", "classes") if key not in given]

    def declaration_problems(self, given: Collection[str]) -> Iterator[str]:
        """Yield whether `ordered` is false, the classes are fewer than three, or any problem of `Classes`."""
        if not self.ordered:
            yield "ordered = false: leave the key out for classes without an order."
        elif self.classes is not None and len(self.class_names) < FEWEST:
            yield f"ordered = true needs {FEWEST} classes or more, lowest first."
        yield from super().declaration_problems(given)

    @property
    def outputs(self) -> int:
        """The first cumulative logit, and the steps between them; see `ordered_log_probabilities`."""
        return len(self.class_names) - 1

    @property
    def has_class_logits(self) -> bool:
        """False: the outputs are cumulative logits."""
        return False

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return the weights and the intercepts of `cumulative_regression`, (M + 1, C - 1)."""
        return cumulative_regression(x, targets, len(self.class_names), balanced)

    @property
    def scoring(self) -> Scoring:
        """Labels, probabilities of all classes, and decisions."""
        return class_scoring(self.class_names, ORDERED_METRICS, pooled=None)

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return probabilities without calibration, of which the largest decides."""
        probabilities = np.exp(ordered_log_probabilities(outputs))
        return Predicted(targets, probabilities, last_largest(probabilities), folds)

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> OrderedDecision:
        """Fit calibration and priors to the log-probabilities of out-of-fold outputs (n, C - 1)."""
        fitted = fit_class_decision(ordered_log_probabilities(outputs), targets, self.class_names)
        return OrderedDecision(fitted.slope, fitted.biases, fitted.priors, fitted.names)

    @classmethod
    def parse_decision(cls, value: Json) -> OrderedDecision:
        """Return calibration and priors from JSON."""
        return msgspec.convert(value, OrderedDecision)


def cumulative_regression(x: np.ndarray, targets: np.ndarray, classes: int, balanced: bool) -> np.ndarray:
    """Return weights and intercepts (M + 1, C - 1) of the outputs of a cumulative link model.

    x: (n, M); targets: (n,) of 0 to C - 1; balanced: give all classes the same total weight

    A logistic regression predicts each of "above class 0" to "above class C - 2". All share the mean of their
    weights (proportional odds; McCullagh 1980), and each keeps its intercept. This is not the maximum of the
    likelihood, but near it, which suffices for a start; the baselines are multinomial regressions instead.
    """
    from sklearn.linear_model import LogisticRegression  # to apply a model, it is not needed

    shares = np.bincount(targets, minlength=classes) / len(targets)
    weights = 1 / (classes * shares[targets]) if balanced else np.ones(len(targets))
    fits = [
        LogisticRegression(max_iter=2000).fit(x, targets > label, sample_weight=weights)
        for label in range(classes - 1)
    ]
    start = np.zeros((x.shape[1] + 1, classes - 1))
    start[:-1, 0] = np.mean([fit.coef_[0] for fit in fits], axis=0)
    intercepts = np.array([fit.intercept_[0] for fit in fits])
    steps = np.maximum(SMALLEST_STEP, -np.diff(intercepts))
    start[-1] = [intercepts[0], *np.log(np.expm1(steps))]  # the steps are softplus of the outputs
    return start
