"""Temperature and bias: agreement with the binary calibration, maximum likelihood, and the decision."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from mil_toolkit.evaluation.calibration import SMALLEST_SLOPE, fit_calibration
from mil_toolkit.evaluation.class_calibration import (
    ClassDecision,
    fit_biases,
    fit_class_calibration,
    fit_class_decision,
    last_largest,
)

NAMES = ("AML", "ALL", "other")


def drawn(count: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels that follow softmax(slope * logits + (1, 0, -1))."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    chances = softmax(slope * logits + np.array([1, 0, -1]), axis=1)
    labels = (random.random((count, 1)) > chances.cumsum(1)).sum(1)
    return logits, np.minimum(labels, 2)


def test_biases_alone_are_those_of_a_calibration_of_slope_one() -> None:
    logits, labels = drawn(45, 1.0)
    slope, biases = fit_class_calibration(logits, labels)
    assert slope == 1  # a class has fewer than 20 patients
    assert np.array_equal(fit_biases(logits, labels), biases)


@pytest.mark.parametrize(("positives", "negatives"), [(30, 50), (15, 40)])
def test_two_classes_are_calibrated_like_a_binary_outcome(positives: int, negatives: int) -> None:
    random = np.random.default_rng(positives)
    labels = np.repeat([1, 0], [positives, negatives])
    logit = random.normal(size=len(labels)) + labels
    slope, biases = fit_class_calibration(np.stack([np.zeros_like(logit), logit], 1), labels)
    expected = fit_calibration(logit, labels)
    np.testing.assert_allclose([slope, biases[1] - biases[0]], expected, atol=1e-4)
    assert biases.sum() == pytest.approx(0)


def test_the_parameters_of_a_large_sample_are_recovered() -> None:
    slope, biases = fit_class_calibration(*drawn(20_000, 0.5))
    assert slope == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(biases, [1, 0, -1], atol=0.06)


def test_the_mean_probabilities_are_the_smoothed_shares_of_the_classes() -> None:
    logits, labels = drawn(150, 1.0)
    decision = fit_class_decision(logits, labels, NAMES)
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(decision.probabilities(logits).mean(0), shares, atol=0.02)
    np.testing.assert_allclose(decision.priors, shares)


def test_a_constant_added_to_all_logits_changes_no_probability() -> None:
    logits, labels = drawn(150, 1.0)
    moved = logits + np.arange(150)[:, None] / 10
    one, other = (fit_class_decision(own, labels, NAMES).probabilities(own) for own in (logits, moved))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_logits_that_point_the_wrong_way_keep_their_order() -> None:
    logits, labels = drawn(300, -1.0)
    slope, _ = fit_class_calibration(logits, labels)
    assert slope == SMALLEST_SLOPE


def test_separable_classes_have_a_finite_slope() -> None:
    labels = np.repeat([0, 1, 2], 25)
    slope, biases = fit_class_calibration(np.eye(3)[labels] * 20, labels)
    assert np.isfinite(slope)
    assert np.isfinite(biases).all()
    chances = ClassDecision(slope, tuple(biases), (1 / 3,) * 3, NAMES).probabilities(np.eye(3) * 20)
    assert (chances.max(1) < 1).all()


def test_the_temperature_of_few_patients_is_one() -> None:
    logits, labels = drawn(40, 3.0)
    assert np.bincount(labels).min() < 20
    assert fit_class_calibration(logits, labels)[0] == 1


def test_the_decision_is_the_largest_multiple_of_the_prior() -> None:
    decision = ClassDecision(1.0, (0.0, 0.0, 0.0), (0.6, 0.3, 0.1), NAMES)
    logits = np.log([[0.59, 0.3, 0.11], [0.7, 0.2, 0.1], [0.4, 0.5, 0.1]])
    assert decision.predict(logits).decisions.tolist() == [2, 0, 1]
    np.testing.assert_allclose(decision.probabilities(logits), np.exp(logits))


def test_two_classes_are_decided_by_a_threshold_at_the_prior() -> None:
    logit = np.array([-2.0, -1.0, 0.0, 1.0])
    decision = ClassDecision(1.0, (0.0, 0.0), (1 - float(expit(0)), float(expit(0))), NAMES[:2])
    assert decision.predict(np.stack([np.zeros(4), logit], 1)).decisions.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"names": NAMES[:2]}, "biases, priors and names are not of the same classes"),
        ({"priors": (0.5, 0.3, 0.1)}, "the priors do not add up to 1"),
        ({"biases": (0.0, 0.0, float("nan"))}, "slope or biases are not finite"),
    ],
)
def test_numbers_that_are_no_decision_are_named(change: dict[str, Any], problem: str) -> None:
    decision = ClassDecision(1.0, (0.0, 0.0, 0.0), (0.6, 0.3, 0.1), NAMES)
    assert not list(decision.problems())
    assert list(replace(decision, **change).problems()) == [problem]


def test_the_last_of_several_largest_values_counts() -> None:
    assert last_largest(np.array([[1.0, 1.0, 0.5], [2.0, 1.0, 2.0]])).tolist() == [1, 2]
