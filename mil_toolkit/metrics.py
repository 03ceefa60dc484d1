# Floor 0.7: scores: thin calls of scikit-learn.
"""`METRICS`: what a set of predictions is worth. The unit is always the patient."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_sample_weight

Score = Callable[[np.ndarray, np.ndarray, float], float]


@dataclass(frozen=True)
class Metric:
    """A score of labels (n,), probabilities (n,) and a threshold; `thresholded` where it looks at the last."""

    score: Score
    higher_is_better: bool = True
    thresholded: bool = False


def balanced_log_loss(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Log-loss in nats with both classes of the same total weight."""
    weights = compute_sample_weight("balanced", labels)
    return float(sk.log_loss(labels, probabilities, sample_weight=weights, labels=[0, 1]))


def log_loss(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Mean log-loss in nats."""
    return float(sk.log_loss(labels, probabilities, labels=[0, 1]))


def accuracy(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Share of patients predicted rightly."""
    return float(sk.accuracy_score(labels, probabilities >= threshold))


def sensitivity(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the positive patients that are predicted positive."""
    return float(sk.recall_score(labels, probabilities >= threshold, pos_label=1))


def specificity(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the negative patients that are predicted negative."""
    return float(sk.recall_score(labels, probabilities >= threshold, pos_label=0))


def balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Mean of sensitivity and specificity."""
    return float(sk.balanced_accuracy_score(labels, probabilities >= threshold))


def auc(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Area under the ROC curve: the share of pairs in which the positive patient has the higher probability."""
    return float(sk.roc_auc_score(labels, probabilities))


def brier(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> float:
    """Mean squared difference of probability and label."""
    return float(sk.brier_score_loss(labels, probabilities))


METRICS: dict[str, Metric] = {
    "balanced_log_loss": Metric(balanced_log_loss, higher_is_better=False),
    "log_loss": Metric(log_loss, higher_is_better=False),
    "accuracy": Metric(accuracy, thresholded=True),
    "sensitivity": Metric(sensitivity, thresholded=True),
    "specificity": Metric(specificity, thresholded=True),
    "balanced_accuracy": Metric(balanced_accuracy, thresholded=True),
    "auc": Metric(auc),
    "brier": Metric(brier, higher_is_better=False),
}


def score_all(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Every metric of `METRICS`, by name."""
    return {name: metric.score(labels, probabilities, threshold) for name, metric in METRICS.items()}
