"""ROC and precision-recall curves against scikit-learn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from mil_toolkit.evaluation.intervals import Table, draw_patients, percentile_interval
from mil_toolkit.report.curves import GRID, Curve, precision_recall, roc


@pytest.fixture(name="table")
def _table() -> Table:
    random = np.random.default_rng(3)
    labels = (np.arange(60) % 3 > 0).astype(int)
    probabilities = np.round(np.clip(random.normal(0.35 + 0.3 * labels, 0.2, (2, 60)), 0.01, 0.99), 2)  # ties
    ids = tuple(f"P{number:02d}" for number in range(60))
    return Table(ids, labels, np.zeros((2, 60)), probabilities, probabilities > 0.5)


def weighted_roc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    false, true, _ = roc_curve(labels, probabilities, sample_weight=weights, drop_intermediate=False)
    return np.array([true[false <= each + 1e-9].max() for each in GRID])


def weighted_precision(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    precision, recall, _ = precision_recall_curve(labels, probabilities, sample_weight=weights)
    # Recall falls along the thresholds, so the highest threshold that reaches a recall comes last.
    return np.array([precision[:-1][recall[:-1] >= max(each, 1e-6) - 1e-9][-1] for each in GRID])


@pytest.mark.parametrize(("curve", "oracle"), [(roc, weighted_roc), (precision_recall, weighted_precision)])
def test_curves_and_bands_equal_those_of_scikit_learn_on_the_resamples(
    curve: Callable[..., Any],
    oracle: Callable[..., np.ndarray],
    table: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = draw_patients(table.labels, draws=40)
    monkeypatch.setattr("mil_toolkit.report.curves.draw_patients", lambda labels, groups: draws)
    result = curve(table)
    alone = [oracle(table.labels, each, np.ones(60)) for each in table.probabilities]
    np.testing.assert_allclose(result.values, np.mean(alone, axis=0))
    drawn = [np.mean([oracle(table.labels, p, w) for p in table.probabilities], axis=0) for w in draws]
    band = [percentile_interval(np.array(drawn)[:, place]) for place in range(len(GRID))]
    np.testing.assert_allclose(np.stack([result.low, result.high], 1), band)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("curve", [roc, precision_recall])
def test_a_single_group_has_a_curve_without_a_band(curve: Callable[[Table], Curve], table: Table) -> None:
    single = curve(replace(table, groups=np.array(["G"] * 60)))
    assert np.array_equal(single.values, curve(table).values)
    assert np.isnan(single.low).all() and np.isnan(single.high).all()
