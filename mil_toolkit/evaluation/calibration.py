"""Calibration by slope and intercept, and rules that choose a threshold (docs/explanation/evidence.md)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from mil_toolkit.evaluation.scoring import Predictions

FEWEST_FOR_SLOPE = 20  # patients in the smaller class
SMALLEST_SLOPE = 0.01
_TOLERANCE = 1e-12  # for scores that differ only by rounding


@dataclass(frozen=True)
class Decision:
    """The mapping from a logit to a calibrated probability and a predicted class.

    The probability is sigmoid(slope * logit + intercept); the prediction is positive at or above `threshold`.

    >>> decision = Decision(slope=2.0, intercept=-1.0, threshold=0.5)
    >>> (decision.probabilities(np.array([0.0, 0.5, 1.0])) >= decision.threshold).tolist()
    [False, True, True]
    """

    slope: Annotated[float, Meta(gt=0)]
    intercept: float
    threshold: Annotated[float, Meta(ge=0, le=1)]

    def predict(self, outputs: np.ndarray) -> Predictions:
        """Return calibrated probabilities and decisions, in the shape of the logits."""
        probabilities = self.probabilities(outputs)
        return Predictions(probabilities, probabilities >= self.threshold)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities of the positive class, in the shape of the logits."""
        from scipy.special import expit  # a study is read without scipy, whose import takes long

        return expit(self.slope * logits + self.intercept)

    @property
    def constants(self) -> dict[str, float]:
        """The columns of a table of predictions that hold the same number in every row."""
        return {"threshold": self.threshold}

    def intervals(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return no columns: a probability has no prediction interval."""
        return {}

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the numbers."""
        if not 0 <= self.threshold <= 1:
            yield f"the threshold {self.threshold} is not between 0 and 1"
        if self.slope < 0:
            yield f"the slope {self.slope} is negative"


def platt_targets(labels: np.ndarray) -> np.ndarray:
    """Return Platt's targets (n,) of labels (n,) of 0 and 1 (Platt 1999, section 2.2)."""
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    return np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Fit slope and intercept by maximum likelihood with Platt's targets (Platt 1999, section 2.2).

    logits: (n,); labels: (n,) of 0 and 1

    The targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) keep the slope finite if the classes are separable. The
    slope is 1 if the smaller class has fewer than 20 patients. Otherwise it is at least SMALLEST_SLOPE,
    because calibration must not reverse the order of the patients: logits that tell nothing of the label give
    probabilities close to the share of positives.

    >>> fit_calibration(np.array([0.0, 0.0, 0.0]), np.array([1, 1, 1]))[0]
    1.0
    """
    targets = platt_targets(labels)
    if min((labels == 1).sum(), (labels == 0).sum()) >= FEWEST_FOR_SLOPE:
        slope, intercept = _fit(lambda x: x[0] * logits + x[1], [1.0, 0.0], targets)
        if slope >= SMALLEST_SLOPE:
            return slope, intercept
        return SMALLEST_SLOPE, _fit(lambda x: SMALLEST_SLOPE * logits + x[0], [0.0], targets)[0]
    return 1.0, _fit(lambda x: logits + x[0], [0.0], targets)[0]


def fit_intercept(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the intercept alone by maximum likelihood with Platt's targets; the slope is 1.

    logits: (n,); labels: (n,) of 0 and 1. The mean probability becomes about the share of positives.

    >>> round(fit_intercept(np.zeros(1000), np.repeat([0, 1], 500)), 6)
    0.0
    """
    return _fit(lambda x: logits + x[0], [0.0], platt_targets(labels))[0]


def _fit(line: Callable[[np.ndarray], np.ndarray], start: list[float], targets: np.ndarray) -> list[float]:
    from scipy.optimize import minimize  # see `Decision.probabilities`

    def loss(x: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, line(x)) - targets * line(x)))

    return [float(parameter) for parameter in minimize(loss, start, method="BFGS").x]


def share(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of positives, which maximises balanced accuracy if the probabilities are calibrated.

    Twice the balanced accuracy grows by p / share for a patient predicted positive and by (1 - p) / (1 -
    share) for one predicted negative; both are equal at p = share. Since nothing is optimised, the threshold
    varies little between small samples, whereas the best cut of a sample of 72 patients is mostly chance.

    >>> share(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 1, 1, 0]))
    0.75
    """
    return float(labels.mean())


def half(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return 0.5."""
    return 0.5


def balanced(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold with the highest balanced accuracy on these patients; the middle one of several.

    >>> balanced(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 0]))
    0.55
    """
    cuts = _cuts(probabilities)
    decided = probabilities >= cuts[:, None]  # (cuts, n)
    scores = decided[:, labels == 1].mean(1) + (~decided[:, labels == 0]).mean(1)
    best = np.flatnonzero(scores >= scores.max() - _TOLERANCE)
    return float(cuts[best[len(best) // 2]])


def sensitive(probabilities: np.ndarray, labels: np.ndarray, sensitivity: float) -> float:
    """Return the highest threshold whose sensitivity is at least `sensitivity`.

    >>> sensitive(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 1, 1, 0]), sensitivity=0.6)
    0.55
    """
    cuts = _cuts(probabilities)
    reached = (probabilities[labels == 1] >= cuts[:, None]).mean(1) >= sensitivity - _TOLERANCE
    return float(cuts[reached].max())


def _cuts(probabilities: np.ndarray) -> np.ndarray:
    """Return the midpoints of adjacent distinct probabilities, preceded by a cut below all of them."""
    values = np.unique(probabilities)
    return np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])


THRESHOLDS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "share": share,
    "balanced": balanced,
    "half": half,
}


def fit_decision(
    logits: np.ndarray, labels: np.ndarray, rule: str, sensitivity: float | None = None
) -> Decision:
    """Fit the calibration, and then choose the threshold on the calibrated probabilities.

    logits: (n,), out of fold, i.e. from models that were not trained on the patient; labels: (n,) of 0 and 1
    rule: a name of THRESHOLDS; sensitivity: if given, the sensitivity to reach, which replaces the rule

    >>> logits, labels = np.array([2.0, 1.0, -1.0, -2.0]), np.array([1, 1, 0, 0])
    >>> fit_decision(logits, labels, "half").threshold
    0.5
    """
    slope, intercept = fit_calibration(logits, labels)
    probabilities = Decision(slope, intercept, 0.5).probabilities(logits)
    if sensitivity is not None:
        return Decision(slope, intercept, sensitive(probabilities, labels, sensitivity))
    return Decision(slope, intercept, THRESHOLDS[rule](probabilities, labels))
