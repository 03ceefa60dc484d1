"""Calibration by slope and intercept, and the rules that choose a threshold (rules of evidence, 3 and 4)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

FEWEST_FOR_SLOPE = 20  # patients in the smaller class


@dataclass(frozen=True)
class Decision:
    """How a logit becomes a probability and a prediction.

    probability = sigmoid(slope * logit + intercept); positive at or above `threshold`
    """

    slope: float
    intercept: float
    threshold: float

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of the positive class, of the shape of the logits."""
        return expit(self.slope * logits + self.intercept)


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept on the logit by maximum likelihood with Platt's targets (Platt 1999, section 2.2).

    Shapes: logits (n,), labels (n,). The targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) keep the slope finite where
    the classes are apart. The slope is 1 where the smaller class has fewer than 20 patients, and where the best
    one is not positive, since calibration must not turn the order round.
    """
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    if min(positives, negatives) >= FEWEST_FOR_SLOPE:
        slope, intercept = _fit(lambda x: x[0] * logits + x[1], [1.0, 0.0], targets)
        if slope > 0:
            return slope, intercept
    return 1.0, _fit(lambda x: logits + x[0], [0.0], targets)[0]


def _fit(line: Callable[[np.ndarray], np.ndarray], start: list[float], targets: np.ndarray) -> list[float]:
    def loss(x: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, line(x)) - targets * line(x)))

    return [float(each) for each in minimize(loss, start, method="BFGS").x]


def share(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The share of positives, at which balanced accuracy is highest if the probabilities hold.

    A patient counts p / share where predicted positive and (1 - p) / (1 - share) where negative, which are the same
    at p = share. Nothing is sought, so that few patients move it little: the best cut of 72 is mostly chance.
    """
    return float(labels.mean())


def half(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """A threshold of 0.5."""
    return 0.5


def balanced(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold of the highest balanced accuracy of these very patients; of several, the middle one."""
    cuts = _cuts(probabilities)
    decided = probabilities >= cuts[:, None]  # (cuts, n)
    scores = decided[:, labels == 1].mean(1) + (~decided[:, labels == 0]).mean(1)
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])


def sensitive(probabilities: np.ndarray, labels: np.ndarray, sensitivity: float) -> float:
    """The highest threshold whose sensitivity is at least the required one."""
    cuts = _cuts(probabilities)
    reached = (probabilities[labels == 1] >= cuts[:, None]).mean(1) >= sensitivity - 1e-12
    return float(cuts[reached].max())


def _cuts(probabilities: np.ndarray) -> np.ndarray:
    """The middles between neighbouring probabilities, and one below all of them."""
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
    """Calibration first, then the threshold on the calibrated probabilities: logits (n,), labels (n,).

    The logits have to be out-of-fold: of models that did not train on the patient. A required `sensitivity`
    comes before the `rule` (a name of THRESHOLDS).
    """
    slope, intercept = fit_calibration(logits, labels)
    probabilities = expit(slope * logits + intercept)
    if sensitivity is not None:
        return Decision(slope, intercept, sensitive(probabilities, labels, sensitivity))
    return Decision(slope, intercept, THRESHOLDS[rule](probabilities, labels))
