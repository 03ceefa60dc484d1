"""Decisions by the rule of a study, which may require a confidence bound of the sensitivity."""

import math

import numpy as np
from scipy.stats import beta

from mil_toolkit.config import ThresholdRule
from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.calibration import Decision, fit_decision

_TOLERANCE = 1e-9  # for bounds that differ only by rounding


def fit_by_rule(logits: np.ndarray, labels: np.ndarray, rule: ThresholdRule) -> Decision:
    """Fit the calibration, and then choose the threshold by a rule.

    logits: (n,), out of fold; labels: (n,) of 0 and 1

    Raises DataError where the positive patients are too few for the rule's confidence.
    """
    return fit_decision(logits, labels, rule.name, sensitivity_to_reach(rule, int((labels == 1).sum())))


def sensitivity_to_reach(rule: ThresholdRule, positives: int) -> float | None:
    """Return the sensitivity that the threshold must have among so many positive patients; None without one.

    With a confidence, this is the smallest share of detected patients whose one-sided lower bound of Clopper
    and Pearson 1934 is at least the rule's sensitivity. The threshold is then an order statistic of the
    positive patients, and the bound is the tolerance limit of Wilks 1941: for independent patients it holds
    exactly, although the threshold was chosen on the same patients. Raises DataError where even a threshold
    that detects all of them does not reach the bound.

    >>> sensitivity_to_reach(ThresholdRule("share", 0.9, 0.95), 100)
    0.96
    """
    if rule.sensitivity is None or rule.confidence is None:
        return rule.sensitivity
    if positives < fewest_positives(rule.sensitivity, rule.confidence):
        raise DataError(_too_few_words(rule.sensitivity, rule.confidence, positives))
    detected = np.arange(1, positives + 1)
    bounds = beta.ppf(1 - rule.confidence, detected, positives - detected + 1)
    return float(detected[bounds >= rule.sensitivity - _TOLERANCE][0] / positives)


def fewest_positives(sensitivity: float, confidence: float) -> int:
    """Return the smallest number of positive patients with which the lower bound can reach a sensitivity.

    >>> fewest_positives(0.95, confidence=0.95)
    59
    """
    return math.ceil(math.log(1 - confidence) / math.log(sensitivity) - _TOLERANCE)


def _too_few_words(sensitivity: float, confidence: float, positives: int) -> str:
    least = fewest_positives(sensitivity, confidence)
    reachable = math.floor(1000 * (1 - confidence) ** (1 / positives)) / 1000 if positives else 0.0
    return (
        f"a lower {100 * confidence:g} % confidence bound of the sensitivity of {sensitivity:g} needs at"
        f" least {least} positive patients with out-of-fold predictions, but there are only {positives}. Use"
        f" a sensitivity of at most {reachable:g}, a lower confidence, or none."
    )
