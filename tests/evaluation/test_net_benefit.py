"""Decision curves against the formula on counts."""

from dataclasses import replace

import numpy as np
import pytest

from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.net_benefit import net_benefit, net_benefit_of_all

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])
PROBABILITIES = np.array([0.9, 0.6, 0.2, 0.7, 0.3, 0.1, 0.1, 0.05])


def made(prevalence: float | None = None, repeats: int = 1) -> Table:
    rows = np.tile(PROBABILITIES, (repeats, 1))
    ids = tuple(f"P{number}" for number in range(8))
    return Table(ids, LABELS, np.zeros(rows.shape), rows, rows >= 0.5, prevalence)


def test_the_net_benefit_counts_true_positives_against_weighted_false_ones() -> None:
    # at 0.25: 2 true and 2 false positives; at 0.5: 2 true, 1 false
    values = net_benefit(made(), np.array([0.25, 0.5])).values
    assert values == pytest.approx([2 / 8 - 2 / 8 / 3, 2 / 8 - 1 / 8])


def test_referring_all_is_worth_the_share_of_positives_minus_the_harm_of_the_others() -> None:
    thresholds = np.array([0.01, 0.375, 0.8])
    values = net_benefit_of_all(made(), thresholds).values
    assert values == pytest.approx(3 / 8 - 5 / 8 * thresholds / (1 - thresholds))
    assert values[1] == pytest.approx(0)  # at the share of positives


def test_a_stated_prevalence_weights_the_classes() -> None:
    values = net_benefit(made(prevalence=0.1), np.array([0.5])).values
    assert values == pytest.approx([0.1 * 2 / 3 - 0.9 * 1 / 5])
    own = net_benefit(made(prevalence=3 / 8), np.array([0.5])).values
    assert own == pytest.approx(net_benefit(made(), np.array([0.5])).values)


def test_repeats_of_the_same_predictions_change_nothing() -> None:
    thresholds = np.array([0.2, 0.4])
    once, thrice = net_benefit(made(), thresholds), net_benefit(made(repeats=3), thresholds)
    np.testing.assert_allclose(once.values, thrice.values)
    np.testing.assert_allclose(once.low, thrice.low)


def test_bands_cover_the_truth() -> None:
    random, held = np.random.default_rng(0), []
    truth = 0.3 * 0.8 - 0.7 * 0.1 * 0.25  # sensitivity 0.8, false positive rate 0.1, threshold 0.2
    for _ in range(500):
        labels = (random.random(150) < 0.3).astype(int)
        called = random.random(150) < np.where(labels == 1, 0.8, 0.1)
        rows = np.where(called, 0.9, 0.1)[None]
        ids = tuple(map(str, range(150)))
        curve = net_benefit(Table(ids, labels, np.zeros((1, 150)), rows, rows > 0.5), np.array([0.2]))
        held.append(curve.low[0] <= truth <= curve.high[0])
    assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("prevalence", [None, 0.2])
def test_patients_of_a_group_count_as_one(prevalence: float | None) -> None:
    once, thresholds = made(prevalence), np.array([0.2, 0.4])
    ids, rows = tuple(f"Q{number}" for number in range(16)), np.tile(PROBABILITIES, 2)[None]
    groups = np.tile([f"G{number}" for number in range(8)], 2)
    twice = Table(ids, np.tile(LABELS, 2), np.zeros((1, 16)), rows, rows >= 0.5, prevalence, groups)
    one, two = net_benefit(once, thresholds), net_benefit(twice, thresholds)
    np.testing.assert_allclose(two.values, one.values)
    np.testing.assert_allclose(two.low, one.low)


@pytest.mark.filterwarnings("error")
def test_a_single_group_has_no_band() -> None:
    thresholds = np.array([0.25, 0.5])
    single = net_benefit(replace(made(), groups=np.array(["G"] * 8)), thresholds)
    assert np.array_equal(single.values, net_benefit(made(), thresholds).values)
    assert np.isnan(single.low).all() and np.isnan(single.high).all()
