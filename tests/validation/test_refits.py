"""Refits of decision rules: known shifts are recovered, and formulas hold, for every kind of outcome."""

import math
from typing import cast

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from mil_toolkit.bundle.records import Step
from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.outcomes.kinds import KINDS
from mil_toolkit.outcomes.number import NumberRule
from mil_toolkit.outcomes.ordered import OrderedDecision
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.outcomes.survival import SurvivalRule
from mil_toolkit.validation.refits import REFITS, Labelled, Setting

BINARY = Decision(slope=0.8, intercept=-0.1, threshold=0.4)
SETTING = Setting(stated=0.2, trained=0.6, threshold=ThresholdRule("share", None, None))


def refit(
    kind: str, step: Step, rule: DecisionRule, data: Labelled, setting: Setting = SETTING
) -> DecisionRule:
    return REFITS[kind].steps[step](rule, data, setting)


def drawn(shift: float, slope: float = 1.0, count: int = 6000) -> Labelled:
    """Patients of whom BINARY is wrong by a shift and a slope of its logit."""
    random = np.random.default_rng(0)
    outputs = random.normal(0, 2, count)
    right = slope * (BINARY.slope * outputs + BINARY.intercept) + shift
    return Labelled(outputs, (random.random(count) < expit(right)).astype(int), None)


def test_every_kind_of_outcome_has_an_entry() -> None:
    assert REFITS.keys() == KINDS.keys()


# Two classes.


@pytest.mark.parametrize("shift", [-1.5, 0.0, 2.0])
def test_a_known_shift_is_the_refitted_intercept(shift: float) -> None:
    new = cast(Decision, refit("binary", "intercept", BINARY, drawn(shift)))
    assert new.intercept - BINARY.intercept == pytest.approx(shift, abs=0.12)
    assert (new.slope, new.threshold) == (BINARY.slope, BINARY.threshold)


def test_a_known_slope_and_shift_are_refitted_together() -> None:
    data = drawn(0.7, 0.5)
    new = cast(Decision, refit("binary", "slope", BINARY, data))
    assert new.slope == pytest.approx(0.5 * BINARY.slope, abs=0.05)
    assert new.intercept == pytest.approx(0.5 * BINARY.intercept + 0.7, abs=0.12)
    assert new.threshold == BINARY.threshold


def test_calibrated_predictions_keep_slope_and_intercept() -> None:
    new = cast(Decision, refit("binary", "slope", BINARY, drawn(0.0)))
    assert new.slope / BINARY.slope == pytest.approx(1, abs=0.08)
    assert new.intercept == pytest.approx(BINARY.intercept, abs=0.12)


def test_a_refitted_intercept_gives_the_observed_share_of_positives() -> None:
    data = drawn(1.0)
    new = cast(Decision, refit("binary", "intercept", BINARY, data))
    assert new.probabilities(data.outputs).mean() == pytest.approx(data.targets.mean(), abs=1e-3)


def test_a_prior_shift_multiplies_the_odds_whatever_the_labels() -> None:
    """Saerens et al. 2002: p'(1) is in proportion to p(1) times the ratio of the priors."""
    data = drawn(1.0, count=50)
    new = cast(Decision, refit("binary", "prevalence", BINARY, data))
    before, after = BINARY.probabilities(data.outputs), new.probabilities(data.outputs)
    weights = np.array([0.8 / 0.4, 0.2 / 0.6])
    expected = before * weights[1] / ((1 - before) * weights[0] + before * weights[1])
    np.testing.assert_allclose(after, expected, rtol=1e-9)
    assert new == refit("binary", "prevalence", BINARY, data._replace(targets=1 - data.targets))
    assert new.intercept - BINARY.intercept == pytest.approx(logit(0.2) - logit(0.6))


def test_a_threshold_has_the_highest_balanced_accuracy() -> None:
    data = Labelled(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 0, 1]), None)
    new = cast(Decision, refit("binary", "threshold", BINARY, data))
    probabilities = BINARY.probabilities(data.outputs)
    assert probabilities[2] < new.threshold < probabilities[3]
    assert (new.slope, new.intercept) == (BINARY.slope, BINARY.intercept)


def test_a_threshold_reaches_the_sensitivity_of_the_study() -> None:
    data = drawn(-1.0, count=400)
    setting = Setting(None, None, ThresholdRule("share", 0.9, None))
    new = cast(Decision, refit("binary", "threshold", BINARY, data, setting))
    found = new.predict(data.outputs).decisions[data.targets == 1].mean()
    assert 0.9 <= found < 0.95


# Several classes.


@pytest.mark.parametrize("kind", ["classes", "ordered"])
def test_refitted_classes_are_softmax_of_the_log_probabilities_as_they_stand(kind: str) -> None:
    random = np.random.default_rng(1)
    outputs = random.normal(0, 1, (3000, 2 if kind == "ordered" else 3))
    made = OrderedDecision if kind == "ordered" else ClassDecision
    rule = made(1.3, (0.4, -0.1, -0.3), (0.5, 0.3, 0.2), ("a", "b", "c"))
    biases = np.array([0.8, -0.2, -0.6])
    right = softmax(0.6 * np.log(rule.probabilities(outputs)) + biases, axis=1)
    targets = (right.cumsum(1) > random.random((len(right), 1))).argmax(1)
    data = Labelled(outputs, targets, None)
    both = cast(ClassDecision | OrderedDecision, refit(kind, "slope", rule, data))
    assert both.slope == pytest.approx(0.6 * rule.slope, abs=0.07)
    np.testing.assert_allclose(both.probabilities(outputs), right, atol=0.05)
    alone = cast(ClassDecision | OrderedDecision, refit(kind, "intercept", rule, data))
    assert alone.slope == rule.slope and alone.priors == rule.priors and alone.kind == kind
    shares = np.bincount(targets) / len(targets)
    np.testing.assert_allclose(alone.probabilities(outputs).mean(0), shares, atol=2e-3)


# A number.


@pytest.mark.parametrize("transform", [None, "log"])
def test_a_number_is_moved_and_scaled_on_the_scale_of_the_model(transform: str | None) -> None:
    random = np.random.default_rng(2)
    rule = NumberRule(2.0, 1.0, 0.5, transform)  # type: ignore[arg-type]
    outputs = random.normal(0, 1, 500)
    values = 0.5 * (2 * outputs + 1) + 3 + random.normal(0, 0.2, 500)
    data = Labelled(outputs, np.exp(values) if transform else values, None)
    both = cast(NumberRule, refit("number", "slope", rule, data))
    assert both.slope == pytest.approx(1.0, abs=0.05) and both.intercept == pytest.approx(3.5, abs=0.05)
    assert both.margin == pytest.approx(0.4, abs=0.08)  # 1.96 standard deviations of the noise
    alone = cast(NumberRule, refit("number", "intercept", rule, data))
    centred = (2 * outputs + alone.intercept).mean()
    assert alone.slope == rule.slope and centred == pytest.approx(values.mean())


def test_too_few_numbers_leave_no_margin() -> None:
    data = Labelled(np.arange(5.0), np.array([1.0, 2.0, 4.0, 4.0, 6.0]), None)
    for step in ("intercept", "slope"):
        assert cast(NumberRule, refit("number", step, NumberRule(1.0, 0.0, 1.0), data)).margin is None


# Survival.


def test_a_known_change_of_the_baseline_is_recovered() -> None:
    random = np.random.default_rng(3)
    rule = SurvivalRule(2.0, (1.0, 2.0, 3.0), slope=1.0, intercept=0.0)
    outputs = random.normal(-1.5, 1, (5000, 3))
    events = random.random(outputs.shape) < expit(outputs + 0.8)
    events[:, 2] = True  # after the horizon, where nothing is fitted
    interval = events.argmax(1)
    data = Labelled(outputs, np.column_stack([interval + 1.0, np.ones(5000)]), None)
    baseline = cast(SurvivalRule, refit("survival", "intercept", rule, data))
    assert baseline.intercept == pytest.approx(0.8, abs=0.1) and baseline.slope == 1
    both = cast(SurvivalRule, refit("survival", "slope", rule, data))
    assert both.slope == pytest.approx(1, abs=0.1) and both.intercept == pytest.approx(0.8, abs=0.2)
    risk = baseline.predict(outputs).values[:, 0].mean()
    assert risk == pytest.approx((interval < 2).mean(), abs=0.02)
    assert math.isclose(baseline.horizon, rule.horizon) and baseline.cuts == rule.cuts
