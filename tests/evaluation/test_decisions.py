"""Thresholds by the rule of a study, and the confidence bound of a sensitivity."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.calibration import fit_decision
from mil_toolkit.evaluation.decisions import (
    fewest_positives,
    fit_by_rule,
    independent,
    sensitivity_to_reach,
)

BOUND = ThresholdRule("share", 0.9, 0.95)


def lower_bound(detected: int, positives: int, confidence: float) -> float:
    interval = binomtest(detected, positives, alternative="greater").proportion_ci(confidence, method="exact")
    return float(interval.low)


@pytest.mark.parametrize("positives", [29, 45, 62, 119, 300])
@pytest.mark.parametrize(("sensitivity", "confidence"), [(0.9, 0.95), (0.8, 0.9), (0.5, 0.99)])
def test_the_fewest_detected_patients_whose_exact_bound_reaches_it(
    positives: int, sensitivity: float, confidence: float
) -> None:
    share = sensitivity_to_reach(ThresholdRule("half", sensitivity, confidence), np.ones(positives))
    assert share is not None
    detected = round(share * positives)
    assert lower_bound(detected, positives, confidence) >= sensitivity
    assert lower_bound(detected - 1, positives, confidence) < sensitivity


def test_without_a_confidence_the_sensitivity_itself_is_to_be_reached() -> None:
    assert sensitivity_to_reach(ThresholdRule("share", 0.9), np.ones(3)) == 0.9
    assert sensitivity_to_reach(ThresholdRule("share"), np.ones(3)) is None


def test_fifty_nine_patients_are_needed_for_the_usual_bound() -> None:
    assert fewest_positives(0.95, 0.95) == 59 and fewest_positives(0.9, 0.95) == 29
    assert (
        fewest_positives(0.5, 0.75) == 2
        and sensitivity_to_reach(ThresholdRule("half", 0.5, 0.75), np.ones(2)) == 1
    )
    assert sensitivity_to_reach(ThresholdRule("share", 0.95, 0.95), np.ones(59)) == 1
    with pytest.raises(DataError, match=r"at least 59 positive patients.*only 58.*at most 0.949") as raised:
        sensitivity_to_reach(ThresholdRule("share", 0.95, 0.95), np.ones(58))
    reachable = sensitivity_to_reach(ThresholdRule("share", 0.949, 0.95), np.ones(58))
    assert reachable == 1 and len(raised.value.problems) == 1
    with pytest.raises(DataError, match="only 0"):
        sensitivity_to_reach(BOUND, np.ones(0))


@pytest.mark.parametrize("rule", [ThresholdRule("half"), ThresholdRule("share"), ThresholdRule("share", 0.8)])
def test_other_rules_are_those_of_the_calibration(rule: ThresholdRule) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    logits = random.normal(2 * labels - 1, 1.5)
    assert fit_by_rule(logits, labels, rule) == fit_decision(logits, labels, rule.name, rule.sensitivity)


def test_the_bound_holds_on_new_patients_as_often_as_promised() -> None:
    """Without it, the required sensitivity is missed about half of the time."""
    random = np.random.default_rng(0)
    labels = np.repeat([1, 0], [60, 30])
    reached = {0.95: 0, None: 0}
    for _ in range(200):
        logits = random.normal(np.where(labels == 1, 1.0, -1.0), 1.0)
        for confidence in reached:
            decision = fit_by_rule(logits, labels, ThresholdRule("share", 0.9, confidence))
            cut = (
                np.log(decision.threshold / (1 - decision.threshold)) - decision.intercept
            ) / decision.slope
            reached[confidence] += norm.sf(cut, loc=1.0) >= 0.9
    assert reached[0.95] / 200 >= 0.92
    assert 0.3 < reached[None] / 200 < 0.75


def test_patients_of_groups_count_as_the_patients_that_they_are_worth() -> None:
    rule = ThresholdRule("share", 0.9, 0.95)
    pairs, labels = np.repeat(np.arange(60), 2), np.ones(120)
    assert sensitivity_to_reach(rule, labels, pairs) == sensitivity_to_reach(rule, np.ones(60))
    assert sensitivity_to_reach(rule, labels, np.arange(120)) == sensitivity_to_reach(rule, labels)
    negatives = np.zeros(50)  # their groups do not matter
    mixed = np.concatenate([pairs, np.zeros(50, dtype=int)])
    assert sensitivity_to_reach(rule, np.append(labels, negatives), mixed) == sensitivity_to_reach(
        rule, labels, pairs
    )
    with pytest.raises(DataError, match=r"there are only 56, which count as 28 because of their groups"):
        sensitivity_to_reach(rule, np.ones(56), np.repeat(np.arange(28), 2))
    assert independent(np.array(["a"] * 9 + ["b"])) == 1 and independent(np.array([])) == 0


def test_the_bound_holds_as_often_as_promised_for_patients_of_groups() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), 2)
    labels = np.repeat([1, 0], [160, 80])
    reached = {True: 0, False: 0}
    for _ in range(200):
        shared = random.normal(size=120)[groups]  # patients of a group are alike
        logits = shared + 0.1 * random.normal(size=240) + np.where(labels == 1, 1.0, -1.0)
        for known in reached:
            decision = fit_by_rule(logits, labels, BOUND, groups if known else None)
            cut = (
                np.log(decision.threshold / (1 - decision.threshold)) - decision.intercept
            ) / decision.slope
            reached[known] += norm.sf(cut, loc=1.0, scale=np.sqrt(1.01)) >= 0.9
    assert reached[True] / 200 >= 0.92 > reached[False] / 200
