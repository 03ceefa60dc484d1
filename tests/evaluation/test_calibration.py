"""Calibration and thresholds, compared with scikit-learn and with brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import _sigmoid_calibration

from mil_toolkit.config.study import THRESHOLD_NAMES
from mil_toolkit.evaluation.calibration import (
    SMALLEST_SLOPE,
    THRESHOLDS,
    balanced,
    fit_calibration,
    fit_decision,
    fit_intercept,
    sensitive,
    share,
)


def sample(patients: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, patients)
    return logits, (random.random(patients) < expit(logits)).astype(int)


def test_the_rules_are_those_of_the_configuration() -> None:
    assert set(THRESHOLDS) == set(THRESHOLD_NAMES)


def test_calibration_agrees_with_scikit_learn() -> None:
    logits, labels = sample()
    a, b = _sigmoid_calibration(logits, labels)
    slope, intercept = fit_calibration(logits, labels)
    assert (slope, intercept) == pytest.approx((-a, -b), abs=1e-3)


def test_an_intercept_alone_is_that_of_a_calibration_of_slope_one() -> None:
    logits, labels = sample(60)
    few = np.flatnonzero(labels == 1)[:15]  # too few for a slope
    kept = np.sort(np.concatenate([few, np.flatnonzero(labels == 0)]))
    assert fit_calibration(logits[kept], labels[kept]) == (1.0, fit_intercept(logits[kept], labels[kept]))


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 1.0), (2.0, -1.0)])
def test_calibration_recovers_slope_and_intercept(slope: float, intercept: float) -> None:
    logits, labels = sample(20_000)
    fitted = fit_calibration((logits - intercept) / slope, labels)
    assert fitted == pytest.approx((slope, intercept), rel=0.1)


def test_few_patients_get_only_an_intercept() -> None:
    logits, labels = sample(400)
    few = np.concatenate([np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)[:19]])
    assert fit_calibration(logits[few], labels[few])[0] == 1
    more = np.concatenate([few, np.flatnonzero(labels == 0)[19:20]])
    assert fit_calibration(logits[more], labels[more])[0] != 1


def test_a_negative_slope_shrinks_towards_zero_and_keeps_the_order() -> None:
    logits, labels = sample()
    slope, intercept = fit_calibration(-logits, labels)
    assert slope == SMALLEST_SLOPE > 0
    probabilities = expit(-slope * logits + intercept)
    assert probabilities.mean() == pytest.approx(labels.mean(), abs=0.01) and np.ptp(probabilities) < 0.05


def test_logits_without_information_are_calibrated_to_the_share_of_positives() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 50])
    for _ in range(20):
        slope, intercept = fit_calibration(logits := random.normal(0, 3, 90), labels)
        assert 0 < slope < 0.35
        assert expit(slope * logits + intercept).mean() == pytest.approx(5 / 9, abs=0.02)


def test_the_slope_is_finite_for_separable_classes() -> None:
    logits = np.concatenate([np.full(30, -3.0), np.full(30, 3.0)])
    slope, _ = fit_calibration(logits, np.repeat([0, 1], 30))
    assert 0 < slope < 5


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 99)), min_size=2, max_size=30))
def test_the_balanced_threshold_has_the_highest_balanced_accuracy(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([0, 1, *(label for label, _ in pairs)])
    probabilities = np.array([30, 70, *(percent for _, percent in pairs)]) / 100

    def score(cut: float) -> float:
        decided = probabilities >= cut
        return float(decided[labels == 1].mean() + (~decided[labels == 0]).mean())

    assert score(balanced(probabilities, labels)) == pytest.approx(max(map(score, np.arange(0, 1.01, 0.005))))


def balanced_accuracy(cut: float, probabilities: np.ndarray, labels: np.ndarray) -> float:
    decided = probabilities >= cut
    return float((decided[labels == 1].mean() + (~decided[labels == 0]).mean()) / 2)


def test_the_share_is_the_best_threshold_of_calibrated_probabilities() -> None:
    logits, labels = sample(200_000)
    kept = (labels == 1) | (np.arange(len(labels)) % 3 == 0)  # fewer negatives: another intercept
    logits, labels = logits[kept], labels[kept]
    slope, intercept = fit_calibration(logits, labels)
    positives, probabilities = labels.mean(), expit(slope * logits + intercept)
    assert positives > 0.7 and share(probabilities, labels) == positives
    cuts = np.linspace(0.1, 0.9, 81)
    best = max(balanced_accuracy(cut, probabilities, labels) for cut in cuts)
    assert balanced_accuracy(positives, probabilities, labels) == pytest.approx(best, abs=0.002)


def test_on_few_patients_the_share_generalises_better_than_the_best_cut() -> None:
    population = sample(20_000, seed=1)
    scores: dict[str, list[float]] = {"share": [], "balanced": []}
    for seed in range(100):
        few = sample(60, seed=seed + 2)
        for rule, accuracies in scores.items():
            decision = fit_decision(*few, rule)
            probabilities = decision.probabilities(population[0])
            accuracies.append(balanced_accuracy(decision.threshold, probabilities, population[1]))
    assert np.mean(scores["share"]) > np.mean(scores["balanced"]) + 0.005
    assert np.std(scores["share"]) < np.std(scores["balanced"])


@given(st.lists(st.integers(1, 99), min_size=1, max_size=30), st.floats(0.05, 0.99))
def test_the_sensitive_threshold_is_the_highest_with_the_required_sensitivity(
    percents: list[int], required: float
) -> None:
    probabilities = np.array([*percents, 50]) / 100
    labels = np.array([1] * len(percents) + [0])
    cut = sensitive(probabilities, labels, required)
    positives = probabilities[labels == 1]
    assert (positives >= cut).mean() >= required - 1e-9
    above = probabilities[probabilities > cut].min(initial=1.0)
    assert (positives > above).mean() < required or cut >= probabilities.min() / 2


def test_a_required_sensitivity_replaces_the_rule() -> None:
    logits, labels = sample()
    decision = fit_decision(logits, labels, "half", sensitivity=0.95)
    sensitivity = (decision.probabilities(logits) >= decision.threshold)[labels == 1].mean()
    assert 0.95 <= sensitivity < 0.97
    assert fit_decision(logits, labels, "half").threshold == 0.5
