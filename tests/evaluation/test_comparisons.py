"""Paired comparisons, compared with SciPy and with formulas."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test, t, ttest_rel
from support.tables import LABELS, make_table

from mil_toolkit.evaluation import comparisons
from mil_toolkit.evaluation.comparisons import compare, differences, optimism
from mil_toolkit.evaluation.influence import concordance, spread
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.evaluation.methods import METHODS
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.records import Difference
from mil_toolkit.evaluation.table import DRAWS, Table


def as_one_model(table: Table) -> Table:
    return replace(table, folds=np.ones_like(table.folds))


def test_a_method_does_not_differ_from_itself() -> None:
    compared = compare(make_table(1.0), make_table(1.0))
    assert compared.discordant == 0
    for name, difference in compared.differences.items():
        end = None if name == "calibration_error" else 0
        assert difference == Difference(0, end, end, p_value=1)


def test_a_difference_is_that_of_the_scores_and_changes_sign_with_the_order() -> None:
    one, other = make_table(2.0), make_table(0.5, seed=7)
    forward, backward = compare(one, other).differences, compare(other, one).differences
    for name in METRICS:
        scores = [scores_with_intervals(method)[name].value for method in (one, other)]
        assert scores[0] is not None and scores[1] is not None
        assert forward[name].value == pytest.approx(scores[0] - scores[1])
        if METRICS[name].resampled:
            assert forward[name].low == pytest.approx(-(backward[name].high or 0))
        assert forward[name].p_value == pytest.approx(backward[name].p_value)
    auc = forward["auc"]
    assert auc.low is not None and auc.low > 0 and auc.p_value is not None and auc.p_value < 0.01


def test_the_difference_of_two_models_in_brier_score_has_the_paired_t_interval() -> None:
    one, other = (as_one_model(make_table(shift, seed, repeats=1)) for shift, seed in ((1.0, 0), (0.6, 5)))
    squares = [(table.probabilities[0] - LABELS) ** 2 for table in (one, other)]
    expected = ttest_rel(*squares).confidence_interval(0.95)
    found = differences(one, other)["brier"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_difference_of_two_aucs_is_at_least_as_wide_as_delongs() -> None:
    one, other = (as_one_model(make_table(shift, seed, repeats=1)) for shift, seed in ((0.8, 0), (0.6, 5)))
    influence = [concordance(table, pooled=True).influence for table in (one, other)]
    delong = spread(influence[0] - influence[1], one.units, LABELS).variance
    found = differences(one, other, ["auc_pooled"])["auc_pooled"]
    assert found.low is not None and found.high is not None
    half = (found.high - found.low) / 2
    assert 1 <= half / (t.ppf(0.975, 64) * np.sqrt(delong)) < 1.1


def test_two_perfect_methods_may_differ_in_other_patients() -> None:
    one, other = make_table(9.0, repeats=1), make_table(9.0, seed=1, repeats=1)
    found = differences(one, other)
    for name in METHODS:
        low, high = found[name].low, found[name].high
        assert low is not None and high is not None and low < high, name
    assert found["auc"].value == 0 and (found["auc"].low or 0) < -0.01


def test_folds_without_both_classes_have_no_difference_in_auc() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(20) // 10
    columns = {"repeat": 1, "fold": 1 + labels, "patient_id": [f"P{place:02d}" for place in range(20)]}
    values = {"label": labels, "probability": random.random(20), "prediction": random.integers(0, 2, 20)}
    rows = pd.DataFrame(columns | values)
    found = compare(Table.of(rows), Table.of(rows.assign(prediction=1 - rows["prediction"]))).differences
    assert found["auc"] == Difference(None, None, None, None)
    assert found["balanced_accuracy"].p_value is not None


def test_the_permutation_test_agrees_with_scipy() -> None:
    one, other = make_table(1.0, repeats=1), make_table(0.6, seed=5, repeats=1)
    correct = [(method.decisions[0] == LABELS).astype(float) for method in (one, other)]
    expected = permutation_test(
        correct, lambda x, y: x.mean() - y.mean(), permutation_type="samples", n_resamples=9999, rng=2
    )
    accuracy = compare(one, other).differences["accuracy"]
    assert accuracy.p_value == pytest.approx(expected.pvalue, abs=0.03)


@pytest.mark.parametrize("name", METRICS)
def test_weights_of_two_methods_swap_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = make_table(1.0), make_table(0.6, seed=5)
    swaps = np.random.default_rng(0).random((7, 65)) < 0.5
    expected = []
    for swap in swaps:
        rows = [
            [
                np.where(swap, theirs, mine)
                for mine, theirs in (
                    (first.probabilities, second.probabilities),
                    (first.decisions, second.decisions),
                )
            ]
            for first, second in ((one, other), (other, one))
        ]
        mixed = [replace(one, probabilities=row[0], decisions=row[1]) for row in rows]
        expected.append(mixed[0].score(METRICS[name]) - mixed[1].score(METRICS[name]))
    both = [*map(comparisons._both, one.repeats(), other.repeats())]
    (found,) = comparisons._swapped(both, [METRICS[name]], swaps)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    monkeypatch.setattr(comparisons, "_AT_ONCE", 300)
    assert [len(part) for part in comparisons._parts(swaps)] == [2, 2, 2, 1]


def test_groups_are_swapped_as_a_whole() -> None:
    one, other = make_table(1.0, repeats=1), make_table(0.4, seed=5, repeats=1)
    groups = np.arange(65) // 8
    sums = [np.bincount(groups, (table.decisions[0] == LABELS).astype(float)) for table in (one, other)]
    expected = permutation_test(
        sums, lambda x, y: (x - y).sum() / 65, permutation_type="samples", n_resamples=np.inf
    )
    grouped = compare(replace(one, groups=groups), replace(other, groups=groups)).differences["accuracy"]
    assert grouped.p_value == pytest.approx(expected.pvalue, abs=0.03)
    together = np.zeros(65, dtype=int)
    single = compare(replace(one, groups=together), replace(other, groups=together)).differences["accuracy"]
    assert single.p_value == 1  # a single group shows nothing


def test_discordant_patients_have_different_predictions() -> None:
    one = make_table(1.0)
    decisions = one.decisions.copy()
    decisions[0, :3] ^= True
    assert compare(one, replace(one, decisions=decisions)).discordant == 1.5


def test_optimism_is_inner_minus_outer_score_of_the_same_patients() -> None:
    outer = make_table(1.0, repeats=3)
    inner = make_table(1.5, seed=4, repeats=1)
    difference = optimism(inner, outer)["balanced_accuracy"]
    scores = [scores_with_intervals(part)["balanced_accuracy"].value for part in (inner, outer)]
    assert scores[0] is not None and scores[1] is not None and difference.value is not None
    assert difference.value == pytest.approx(scores[0] - scores[1])
    assert difference.low is not None and difference.high is not None
    assert difference.low < difference.value < difference.high


@pytest.mark.parametrize("count", [3, 700])
def test_swaps_drawn_in_parts_are_those_drawn_one_permutation_at_a_time(count: int) -> None:
    """Parts of several sizes: 2,000 permutations of 700 patients are drawn in three."""
    zeros = np.zeros((1, count))
    table = Table(tuple(map(str, range(count))), zeros[0], zeros, zeros, zeros)
    random = np.random.default_rng(1)
    expected = np.stack([random.random(count) < 0.5 for _ in range(DRAWS)])
    assert np.array_equal(comparisons._draw_swaps(table), expected)
    grouped = replace(table, groups=np.array([str(place // 2) for place in range(count)]))
    swaps = comparisons._draw_swaps(grouped)
    assert swaps.shape == (DRAWS, count) and np.array_equal(swaps[:, 0], swaps[:, 1])
