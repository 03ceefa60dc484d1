"""Calibration intercept, slope and smooth curve, against scikit-learn, identities and simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm, t
from sklearn.linear_model import LogisticRegression

from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.recalibration import calibration, smooth_curve


def made(labels: np.ndarray, probabilities: np.ndarray) -> Table:
    """A table of one repeat, or of several from (R, n) probabilities."""
    rows = np.atleast_2d(probabilities)
    ids = tuple(f"P{number}" for number in range(len(labels)))
    return Table(ids, labels, np.zeros(rows.shape), rows, rows >= 0.5)


def drawn(patients: int, seed: int = 0, slope: float = 1.0, shift: float = 0.0) -> Table:
    """Predictions whose true probability is sigmoid(slope * logit + shift)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.5, 1.5, patients)
    labels = (random.random(patients) < expit(slope * logits + shift)).astype(int)
    return made(labels, expit(logits))


def test_the_slope_is_that_of_an_unpenalised_logistic_regression() -> None:
    table = drawn(200)
    x = logit(table.probabilities[0])[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(x, table.labels)
    slope = calibration(table).slope
    assert slope.value == pytest.approx(oracle.coef_[0, 0], rel=1e-4)


def test_the_intercept_makes_the_mean_prediction_equal_to_the_share_of_positives() -> None:
    table = drawn(200, shift=0.8)
    value = calibration(table).intercept.value
    assert value is not None
    assert expit(logit(table.probabilities[0]) + value).mean() == pytest.approx(table.labels.mean())


def test_repeats_of_the_same_predictions_change_nothing() -> None:
    once = drawn(80)
    thrice = made(once.labels, np.repeat(once.probabilities, 3, axis=0))
    for name in ("intercept", "slope"):
        one, three = getattr(calibration(once), name), getattr(calibration(thrice), name)
        np.testing.assert_allclose(
            [three.value, three.low, three.high], [one.value, one.low, one.high], rtol=1e-6
        )


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.6, 0.5)])
def test_intervals_cover_the_truth(slope: float, shift: float) -> None:
    slopes = [calibration(drawn(120, seed, slope, shift)).slope for seed in range(400)]
    held = [
        each.low <= slope <= each.high for each in slopes if each.low is not None and each.high is not None
    ]
    assert 0.92 <= np.mean(held) <= 0.98  # 0.95 with a standard error of 0.011


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 1, 1]])
def test_separable_or_single_classes_have_no_slope(labels: list[int]) -> None:
    slope = calibration(made(np.array(labels), np.array([0.1, 0.2, 0.8, 0.9]))).slope
    assert slope.value is None and slope.low is None


def test_the_smooth_curve_follows_a_bent_truth_within_its_band() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(0, 1.5, 4000)
    truth = expit(logits + 0.5 * np.abs(logits))
    curve = smooth_curve(made((random.random(4000) < truth).astype(int), expit(logits)))
    assert curve is not None
    x = logit(curve.probabilities)
    middle = np.abs(x) < 2.5
    expected = expit(x + 0.5 * np.abs(x))[middle]
    assert np.abs(curve.shares[middle] - expected).max() < 0.06
    assert ((curve.low <= curve.shares) & (curve.shares <= curve.high)).all()


def test_perfectly_calibrated_predictions_lie_near_the_diagonal() -> None:
    curve = smooth_curve(drawn(20_000))
    assert curve is not None
    assert np.abs(curve.shares - curve.probabilities).max() < 0.05


def test_few_distinct_predictions_give_a_straight_line() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    curve = smooth_curve(made(labels, np.repeat([0.25, 0.75], 4)))
    assert curve is not None
    assert curve.shares[[0, -1]] == pytest.approx([0.25, 0.75])


def test_patients_of_a_group_count_as_one() -> None:
    once = drawn(80)
    ids = tuple(f"P{number}" for number in range(160))
    twice = np.tile(once.probabilities, 2)
    groups = np.tile([f"G{number}" for number in range(80)], 2)
    table = Table(ids, np.tile(once.labels, 2), np.zeros((1, 160)), twice, twice > 0.5, groups=groups)
    one, two = calibration(once).slope, calibration(table).slope
    assert two.value == pytest.approx(one.value)
    assert one.low is not None and one.high is not None and two.low is not None and two.high is not None
    few = t.ppf(0.975, 79) / norm.ppf(0.975)
    np.testing.assert_allclose([two.high - two.low], [few * (one.high - one.low)], rtol=1e-6)
    np.testing.assert_allclose([two.high + two.low], [one.high + one.low], rtol=1e-6)


def test_few_groups_have_intervals_by_students_distribution() -> None:
    table = drawn(60)
    alone = replace(table, groups=np.array([f"G{place:02d}" for place in range(60)]))
    plain, grouped = calibration(table).slope, calibration(alone).slope
    assert plain.low is not None and plain.high is not None and grouped.low is not None
    assert grouped.value == plain.value and grouped.high is not None
    widening = (grouped.high - grouped.low) / (plain.high - plain.low)
    assert widening == pytest.approx(t.ppf(0.975, 59) / norm.ppf(0.975))
    three = calibration(replace(table, groups=np.arange(60) % 3)).slope
    assert three.value is not None and three.high is not None
    sandwich = (three.high - three.value) / t.ppf(0.975, 2)
    assert 0 < sandwich < three.high - three.value


@pytest.mark.filterwarnings("error")
def test_one_group_has_neither_interval_nor_band() -> None:
    table = replace(drawn(60), groups=np.array(["G"] * 60))
    result, curve = calibration(table), smooth_curve(table)
    for estimate in (result.intercept, result.slope):
        assert estimate.value is not None and estimate.low is None and estimate.high is None
    assert curve is not None and np.isfinite(curve.shares).all()
    assert np.isnan(curve.low).all() and np.isnan(curve.high).all()
