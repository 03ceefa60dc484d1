"""Thirds of the predicted risk within folds, their log-rank test, and the null model."""

import numpy as np
import pytest
from scipy.stats import chi2

from mil_toolkit.evaluation.survival_curves import LogRank, log_rank, survival_curve
from mil_toolkit.evaluation.survival_groups import (
    cross_validated_log_rank,
    null_table,
    predicted_thirds,
    ranks_within_folds,
)
from mil_toolkit.evaluation.survival_metrics import grid_of
from mil_toolkit.evaluation.table import Table
from mil_toolkit.outcomes.survival import Survival

OUTCOME = Survival("OS", "DEAD", 2)


def drawn(count: int = 60, folds: int = 3, repeats: int = 2, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    labels = np.stack([random.exponential(size=count) + 0.01, random.integers(0, 2, count)], axis=1)
    risks = random.random((repeats, count))
    survival = 1 - risks[..., None] * np.arange(1, 11) / 10
    fold_of = np.stack([random.permutation(np.arange(count) % folds) for _ in range(repeats)])
    ids = tuple(f"P{place:03d}" for place in range(count))
    values = np.concatenate([risks[..., None], survival], axis=-1)
    return Table(ids, labels, fold_of, values, np.zeros_like(fold_of), scoring=OUTCOME.scoring)


def test_ranks_do_not_depend_on_the_scale_of_a_fold() -> None:
    table = drawn()
    risks, folds = table.probabilities[..., 0], table.folds
    changed = np.where(folds == 1, risks**3 / 7 + 0.5, risks)
    np.testing.assert_array_equal(ranks_within_folds(changed, folds), ranks_within_folds(risks, folds))


def test_equal_risks_share_the_middle_rank() -> None:
    risks, folds = np.array([[0.5, 0.5, 0.5, 0.1, 0.9]]), np.array([[1, 1, 1, 2, 2]])
    np.testing.assert_allclose(ranks_within_folds(risks, folds), [0.5, 0.5, 0.5, 0.25, 0.75])


def test_thirds_are_of_about_equal_size_in_every_fold() -> None:
    table = drawn(repeats=1)
    groups = predicted_thirds(table)
    for fold in range(3):
        sizes = np.bincount(groups[table.folds[0] == fold], minlength=3)
        assert sizes.tolist() == [7, 6, 7] or max(sizes) - min(sizes) <= 1
    order = [table.probabilities[0, groups == group, 0].mean() for group in range(3)]
    assert order == sorted(order)


def test_predictions_without_a_difference_make_a_single_group() -> None:
    table = drawn()
    table.probabilities[...] = 0.3
    assert set(predicted_thirds(table)) == {0}


def test_the_test_of_cross_validated_groups_halves_the_statistic() -> None:
    table = drawn()
    plain = log_rank(table.labels[:, 0], table.labels[:, 1] == 1, predicted_thirds(table))
    corrected = cross_validated_log_rank(plain)
    assert plain.statistic is not None and corrected.p_value == pytest.approx(chi2.sf(plain.statistic / 2, 2))
    assert cross_validated_log_rank(LogRank(None, 0, None)) == LogRank(None, 0, None)


def test_the_null_model_is_the_curve_of_the_patients_of_other_folds() -> None:
    table = drawn()
    null = null_table(table, 2)
    for repeat, fold in ((0, 0), (1, 2)):
        inside = table.folds[repeat] == fold
        times, events = table.labels[~inside].T
        curve = survival_curve(times, events == 1).at(grid_of(2))
        np.testing.assert_allclose(null.probabilities[repeat, inside, 1:], np.tile(curve, (inside.sum(), 1)))
        np.testing.assert_allclose(null.probabilities[repeat, inside, 0], 1 - curve[-1])


def test_the_null_model_of_a_single_fold_is_the_curve_of_its_own_patients() -> None:
    table = drawn(folds=1, repeats=1)
    curve = survival_curve(table.labels[:, 0], table.labels[:, 1] == 1).at(grid_of(2))
    np.testing.assert_allclose(null_table(table, 2).probabilities[0, 0, 1:], curve)
