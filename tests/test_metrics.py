"""Metrics against their formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.hparams import METRIC_NAMES
from mil_toolkit.metrics import METRICS, score_all

LABELS = np.array([1, 1, 1, 0, 0, 1])
PROBABILITIES = np.array([0.9, 0.5, 0.2, 0.4, 0.6, 0.8])


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert tuple(METRICS) == METRIC_NAMES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("sensitivity", 3 / 4),
        ("specificity", 1 / 2),
        ("balanced_accuracy", 5 / 8),
        ("auc", 5 / 8),
        ("brier", (0.01 + 0.25 + 0.64 + 0.16 + 0.36 + 0.04) / 6),
        ("log_loss", -sum(map(math.log, (0.9, 0.5, 0.2, 0.6, 0.4, 0.8))) / 6),
        (
            "balanced_log_loss",
            -sum(map(math.log, (0.9, 0.5, 0.2, 0.8))) / 8 - sum(map(math.log, (0.6, 0.4))) / 4,
        ),
    ],
)
def test_a_metric_is_its_formula(name: str, expected: float) -> None:
    assert METRICS[name].score(LABELS, PROBABILITIES, 0.5) == pytest.approx(expected)


def test_a_probability_at_the_threshold_is_positive() -> None:
    assert METRICS["sensitivity"].score(LABELS, PROBABILITIES, 0.2) == 1
    assert METRICS["specificity"].score(LABELS, PROBABILITIES, 0.6) == 1 / 2
    assert METRICS["specificity"].score(LABELS, PROBABILITIES, 0.61) == 1


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0.01, 0.99)), min_size=2, max_size=30))
def test_the_direction_of_a_metric_is_that_of_better_predictions(pairs: list[tuple[int, float]]) -> None:
    labels, probabilities = np.array([each[0] for each in pairs]), np.array([each[1] for each in pairs])
    if len(set(labels.tolist())) < 2:
        labels[0] = 1 - labels[0]
    perfect = score_all(labels, np.where(labels == 1, 0.999, 0.001))
    for name, found in score_all(labels, probabilities).items():
        assert found <= perfect[name] if METRICS[name].higher_is_better else found >= perfect[name]


def test_copying_a_class_does_not_move_the_balanced_metrics() -> None:
    copies = np.concatenate([np.arange(6), *[np.flatnonzero(LABELS == 1)] * 3])
    for name in ("balanced_log_loss", "balanced_accuracy", "auc"):
        one = METRICS[name].score(LABELS, PROBABILITIES, 0.5)
        assert METRICS[name].score(LABELS[copies], PROBABILITIES[copies], 0.5) == pytest.approx(one)
