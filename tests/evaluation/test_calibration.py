"""Calibration and thresholds against scikit-learn and by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import _sigmoid_calibration

from mil_toolkit.config import THRESHOLD_NAMES
from mil_toolkit.evaluation.calibration import (
    THRESHOLDS,
    balanced,
    fit_calibration,
    fit_decision,
    sensitive,
    share,
)


def sample(patients: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, patients)
    return logits, (random.random(patients) < expit(logits)).astype(int)


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert set(THRESHOLDS) == set(THRESHOLD_NAMES)


def test_calibration_is_platts() -> None:
    logits, labels = sample()
    a, b = _sigmoid_calibration(logits, labels)
    slope, intercept = fit_calibration(logits, labels)
    assert (slope, intercept) == pytest.approx((-a, -b), abs=1e-3)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 1.0), (2.0, -1.0)])
def test_calibration_undoes_a_slope_and_an_intercept(slope: float, intercept: float) -> None:
    logits, labels = sample(20_000)
    found = fit_calibration((logits - intercept) / slope, labels)
    assert found == pytest.approx((slope, intercept), rel=0.1)


def test_few_patients_get_an_intercept_alone() -> None:
    logits, labels = sample(400)
    few = np.concatenate([np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)[:19]])
    assert fit_calibration(logits[few], labels[few])[0] == 1
    more = np.concatenate([few, np.flatnonzero(labels == 0)[19:20]])
    assert fit_calibration(logits[more], labels[more])[0] != 1


def test_calibration_never_turns_the_order_round() -> None:
    logits, labels = sample()
    assert fit_calibration(-logits, labels)[0] == 1


def test_classes_that_are_apart_keep_the_slope_finite() -> None:
    logits = np.concatenate([np.full(30, -3.0), np.full(30, 3.0)])
    slope, _ = fit_calibration(logits, np.repeat([0, 1], 30))
    assert 0 < slope < 5


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 99)), min_size=2, max_size=30))
def test_the_balanced_threshold_is_the_best_of_all(pairs: list[tuple[int, int]]) -> None:
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
    sharing, positive = labels.mean(), expit(slope * logits + intercept)
    assert sharing > 0.7 and share(positive, labels) == sharing
    cuts = np.linspace(0.1, 0.9, 81)
    best = max(balanced_accuracy(cut, positive, labels) for cut in cuts)
    assert balanced_accuracy(sharing, positive, labels) == pytest.approx(best, abs=0.002)


def test_of_few_patients_the_share_chooses_better_than_their_best_cut() -> None:
    many = sample(20_000, seed=1)
    scores: dict[str, list[float]] = {"share": [], "balanced": []}
    for seed in range(100):
        few = sample(60, seed=seed + 2)
        for rule, found in scores.items():
            decision = fit_decision(*few, rule)
            found.append(balanced_accuracy(decision.threshold, decision.probabilities(many[0]), many[1]))
    assert np.mean(scores["share"]) > np.mean(scores["balanced"]) + 0.005
    assert np.std(scores["share"]) < np.std(scores["balanced"])


@given(st.lists(st.integers(1, 99), min_size=1, max_size=30), st.floats(0.05, 0.99))
def test_the_sensitive_threshold_is_the_highest_that_reaches_it(percents: list[int], required: float) -> None:
    probabilities = np.array([*percents, 50]) / 100
    labels = np.array([1] * len(percents) + [0])
    cut = sensitive(probabilities, labels, required)
    positives = probabilities[labels == 1]
    assert (positives >= cut).mean() >= required - 1e-9
    above = probabilities[probabilities > cut].min(initial=1.0)
    assert (positives > above).mean() < required or cut >= probabilities.min() / 2


def test_a_required_sensitivity_comes_before_the_rule() -> None:
    logits, labels = sample()
    decision = fit_decision(logits, labels, "half", sensitivity=0.95)
    found = (decision.probabilities(logits) >= decision.threshold)[labels == 1].mean()
    assert 0.95 <= found < 0.97
    assert fit_decision(logits, labels, "half").threshold == 0.5
