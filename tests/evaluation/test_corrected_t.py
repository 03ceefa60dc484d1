"""The corrected resampled t-test against its formula."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from mil_toolkit.evaluation.corrected_t import corrected_t
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.metrics import METRICS


def made(seed: int, repeats: int = 2, folds: int = 5) -> Table:
    random = np.random.default_rng(seed)
    labels = np.arange(60) % 2
    probabilities = random.uniform(0, 1, (repeats, 60))
    places = np.tile(np.arange(60) // 2 % folds, (repeats, 1))
    return Table(tuple(map(str, range(60))), labels, places, probabilities, probabilities >= 0.5)


def test_the_interval_is_that_of_a_paired_t_test_with_a_larger_variance() -> None:
    one, other, metric = made(0), made(1), METRICS["accuracy"]
    result = corrected_t(one, other, metric)
    right = [table.decisions == table.labels for table in (one, other)]
    inside = [one.folds[0] == fold for fold in range(5)]
    scores = [np.array([row[chosen].mean() for row in part for chosen in inside]) for part in right]
    usual = ttest_rel(*scores)
    assert result is not None and result.folds == 10
    assert result.value == pytest.approx(np.mean(scores[0] - scores[1]))
    plain = usual.confidence_interval(0.95)
    factor = np.sqrt((1 / 10 + 1 / 4) / (1 / 10))
    assert (result.high - result.low) / (plain.high - plain.low) == pytest.approx(factor)
    assert result.p_value > usual.pvalue


def test_equal_methods_differ_by_nothing() -> None:
    result = corrected_t(made(0), made(0), METRICS["auc"])
    assert result is not None and result.value == 0 and result.p_value == 1


def test_folds_of_one_class_are_left_out() -> None:
    table = made(0, repeats=1, folds=5)
    folds = np.where(np.arange(60) < 10, 9 + np.arange(60) % 2, table.folds)
    one, other = (replace(each, folds=folds) for each in (table, made(1, repeats=1)))
    result = corrected_t(one, other, METRICS["auc"])
    assert result is not None and result.folds == 5
    single = replace(table, folds=np.zeros((1, 60)))
    assert corrected_t(single, single, METRICS["auc"]) is None
