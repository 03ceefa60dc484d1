"""Thresholds by the rule of a study, and the confidence bound of a sensitivity."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from mil_toolkit.config import ThresholdRule
from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.calibration import fit_decision
from mil_toolkit.evaluation.decisions import fewest_positives, fit_by_rule, sensitivity_to_reach

BOUND = ThresholdRule("share", 0.9, 0.95)


def lower_bound(detected: int, positives: int, confidence: float) -> float:
    interval = binomtest(detected, positives, alternative="greater").proportion_ci(confidence, method="exact")
    return float(interval.low)


@pytest.mark.parametrize("positives", [29, 45, 62, 119, 300])
@pytest.mark.parametrize(("sensitivity", "confidence"), [(0.9, 0.95), (0.8, 0.9), (0.5, 0.99)])
def test_the_fewest_detected_patients_whose_exact_bound_reaches_it(
    positives: int, sensitivity: float, confidence: float
) -> None:
    share = sensitivity_to_reach(ThresholdRule("half", sensitivity, confidence), positives)
    assert share is not None
    detected = round(share * positives)
    assert lower_bound(detected, positives, confidence) >= sensitivity
    assert lower_bound(detected - 1, positives, confidence) < sensitivity


def test_without_a_confidence_the_sensitivity_itself_is_to_be_reached() -> None:
    assert sensitivity_to_reach(ThresholdRule("share", 0.9), 3) == 0.9
    assert sensitivity_to_reach(ThresholdRule("share"), 3) is None


def test_fifty_nine_patients_are_needed_for_the_usual_bound() -> None:
    assert fewest_positives(0.95, 0.95) == 59 and fewest_positives(0.9, 0.95) == 29
    assert fewest_positives(0.5, 0.75) == 2 and sensitivity_to_reach(ThresholdRule("half", 0.5, 0.75), 2) == 1
    assert sensitivity_to_reach(ThresholdRule("share", 0.95, 0.95), 59) == 1
    with pytest.raises(DataError, match=r"at least 59 positive patients.*only 58.*at most 0.949") as raised:
        sensitivity_to_reach(ThresholdRule("share", 0.95, 0.95), 58)
    reachable = sensitivity_to_reach(ThresholdRule("share", 0.949, 0.95), 58)
    assert reachable == 1 and len(raised.value.problems) == 1
    with pytest.raises(DataError, match="only 0"):
        sensitivity_to_reach(BOUND, 0)


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
