"""Decisions by the rule of a study, which may require a confidence bound of the sensitivity."""

import math

import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.calibration import Decision, fit_decision
from mil_toolkit.evaluation.influence import mean_size

_TOLERANCE = 1e-9  # for bounds that differ only by rounding


def fit_by_rule(
    logits: np.ndarray, labels: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None = None
) -> Decision:
    """Fit the calibration, and then choose the threshold by a rule.

    logits: (n,), out of fold; labels: (n,) of 0 and 1; groups: (n,), None if there are none

    Raises DataError where the positive patients are too few for the rule's confidence.
    """
    return fit_decision(logits, labels, rule.name, sensitivity_to_reach(rule, labels, groups))


def sensitivity_to_reach(
    rule: ThresholdRule, labels: np.ndarray, groups: np.ndarray | None = None
) -> float | None:
    """Return the sensitivity that the threshold must have among the positive patients; None without one.

    labels: (n,) of 0 and 1; groups: (n,), None if there are none

    With a confidence, this is the smallest share of detected patients whose one-sided lower bound of Clopper
    and Pearson 1934 is at least the rule's sensitivity. The threshold is then an order statistic of the
    positive patients, and the bound is the tolerance limit of Wilks 1941: for independent patients it holds
    exactly, although the threshold was chosen on the same patients. Patients of groups count as fewer; see
    `independent`. Raises DataError where even a threshold that detects all of them does not reach the bound.

    >>> sensitivity_to_reach(ThresholdRule("share", 0.9, 0.95), np.ones(100))
    0.96
    """
    if rule.sensitivity is None or rule.confidence is None:
        return rule.sensitivity
    positive = labels == 1
    positives = int(positive.sum()) if groups is None else independent(groups[positive])
    if positives < fewest_positives(rule.sensitivity, rule.confidence):
        of_groups = None if groups is None else int(positive.sum())
        raise DataError(_too_few_words(rule.sensitivity, rule.confidence, positives, of_groups))
    from scipy.stats import beta  # takes long to import, and few studies need it

    detected = np.arange(1, positives + 1)
    bounds = beta.ppf(1 - rule.confidence, detected, positives - detected + 1)
    return float(detected[bounds >= rule.sensitivity - _TOLERANCE][0] / positives)


def independent(groups: np.ndarray) -> int:
    """Return how many independent patients are worth as much as patients of groups (n,) that are all alike.

    This is their number divided by the mean size of a patient's group (Kish 1965, section 5.4, with an
    intraclass correlation of one, which is the worst case).

    >>> independent(np.array(["a", "a", "b", "b"]))
    2
    """
    if not len(groups):
        return 0
    return int(len(groups) / mean_size(np.unique(groups, return_inverse=True)[1]) + _TOLERANCE)


def fewest_positives(sensitivity: float, confidence: float) -> int:
    """Return the smallest number of positive patients with which the lower bound can reach a sensitivity.

    >>> fewest_positives(0.95, confidence=0.95)
    59
    """
    return math.ceil(math.log(1 - confidence) / math.log(sensitivity) - _TOLERANCE)


def _too_few_words(sensitivity: float, confidence: float, positives: int, of_groups: int | None) -> str:
    least = fewest_positives(sensitivity, confidence)
    reachable = math.floor(1000 * (1 - confidence) ** (1 / positives)) / 1000 if positives else 0.0
    there_are = f"there are only {positives}"
    if of_groups is not None:
        there_are = f"there are only {of_groups}, which count as {positives} because of their groups"
    return (
        f"a lower {100 * confidence:g} % confidence bound of the sensitivity of {sensitivity:g} needs at"
        f" least {least} positive patients with out-of-fold predictions, but {there_are}."
        f" Use a sensitivity of at most {reachable:g}, a lower confidence, or none."
    )
