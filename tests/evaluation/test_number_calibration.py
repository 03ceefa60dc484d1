"""Recalibration of numbers, prediction intervals that cover, and limits of agreement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.evaluation.number_calibration import (
    SMALLEST_SLOPE,
    AffineCalibration,
    bland_altman,
    fit_affine,
    left_out_residuals,
    prediction_margin,
)


def test_the_recalibration_is_the_regression_of_targets_on_outputs() -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=50)
    targets = 3 * outputs - 2 + random.normal(size=50)
    slope, intercept = np.polyfit(outputs, targets, 1)
    fitted = fit_affine(outputs, targets)
    np.testing.assert_allclose([fitted.slope, fitted.intercept], [slope, intercept])
    residuals = targets - fitted.values(outputs)
    assert residuals.mean() == pytest.approx(0, abs=1e-12)
    assert residuals @ outputs == pytest.approx(0, abs=1e-9)


def test_outputs_that_point_the_wrong_way_keep_their_order() -> None:
    outputs = np.arange(10.0)
    fitted = fit_affine(outputs, -2 * outputs)
    assert fitted.slope == pytest.approx(2 * SMALLEST_SLOPE)
    assert fitted.values(outputs).mean() == pytest.approx(-9)


def test_equal_outputs_become_the_mean() -> None:
    assert fit_affine(np.ones(3), np.array([1.0, 2.0, 6.0])) == AffineCalibration(0.0, 3.0)


def test_the_residual_of_a_patient_is_that_of_the_regression_on_all_others() -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=12)
    targets = 3 * outputs + random.normal(size=12)
    residuals = left_out_residuals(outputs, targets)
    for place in range(12):
        others = np.arange(12) != place
        fitted = fit_affine(outputs[others], targets[others])
        assert residuals[place] == pytest.approx(targets[place] - fitted.values(outputs[place]))
    equal = left_out_residuals(np.ones(4), np.array([0.0, 0.0, 0.0, 4.0]))
    assert equal.tolist() == pytest.approx([-4 / 3, -4 / 3, -4 / 3, 4])


@given(st.lists(st.floats(-100, 100), min_size=19, max_size=60))
def test_the_margin_leaves_out_at_most_one_patient_in_twenty(residuals: list[float]) -> None:
    errors = np.abs(residuals)
    margin = prediction_margin(np.array(residuals))
    assert margin in errors
    assert (errors <= margin).sum() >= 0.95 * (len(errors) + 1) - 1e-9
    assert (errors < margin).sum() < 0.95 * (len(errors) + 1)


def test_too_few_residuals_give_no_bound() -> None:
    assert prediction_margin(np.zeros(18)) == np.inf
    assert prediction_margin(np.zeros(19)) == 0


def test_intervals_of_new_patients_cover() -> None:
    random = np.random.default_rng(2)
    covered = []
    for _ in range(300):
        x, new = random.normal(size=(60, 3)), random.normal(size=(20, 3))
        targets, later = x.sum(1) + random.normal(size=60), new.sum(1) + random.normal(size=20)
        folds = np.arange(60) % 5
        models = [np.linalg.lstsq(x[folds != f], targets[folds != f], rcond=None)[0] for f in range(5)]
        values = np.array([x[i] @ models[folds[i]] for i in range(60)])
        predictions = np.stack([new @ model for model in models])[folds]
        margin = prediction_margin(targets - values)
        covered.append((np.abs(later - predictions.mean(0)) <= margin).mean())
    assert 0.94 < np.mean(covered) < 0.97


def test_the_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    differences = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    agreement = bland_altman(differences + 10, np.full(5, 10.0))
    deviation = np.sqrt(2.5)
    assert agreement.bias.value == 1
    assert agreement.upper.value == pytest.approx(1 + 1.959964 * deviation)
    assert agreement.lower.value == pytest.approx(1 - 1.959964 * deviation)
    assert agreement.bias.high - 1 == pytest.approx(2.776445 * deviation / np.sqrt(5))
    half = 2.776445 * deviation * np.sqrt(1 / 5 + 1.959964**2 / 8)
    assert agreement.upper.high - agreement.upper.value == pytest.approx(half)
    assert agreement.lower.value - agreement.lower.low == pytest.approx(half)


def test_limits_of_agreement_of_normal_differences_are_hardly_wider_than_in_theory() -> None:
    values = np.random.default_rng(2).normal(size=2000)
    agreement = bland_altman(values, np.zeros(2000))
    theory = 1.96 * values.std(ddof=1) * np.sqrt(1 / 2000 + 1.96**2 / (2 * 1999))
    assert theory * 0.99 < agreement.upper.high - agreement.upper.value < 1.1 * theory


def test_limits_of_agreement_of_skewed_differences_are_as_uncertain_as_resamples_show() -> None:
    random = np.random.default_rng(3)
    values = random.exponential(size=1000)
    agreement = bland_altman(values, np.zeros(1000))
    drawn = values[random.integers(0, 1000, (2000, 1000))]
    error = np.std(drawn.mean(1) + 1.96 * drawn.std(1))
    for limits in (agreement.upper, agreement.lower):
        assert limits.high - limits.value == pytest.approx(1.96 * error, rel=0.1)


def test_copies_of_patients_in_groups_do_not_narrow_the_limits_of_agreement() -> None:
    values = np.random.default_rng(4).normal(size=40)
    alone = bland_altman(values, np.zeros(40))
    copied = bland_altman(np.repeat(values, 5), np.zeros(200), np.repeat(np.arange(40), 5))
    for one, other in ((alone.bias, copied.bias), (alone.upper, copied.upper)):
        assert (other.high - other.low) > 0.9 * (one.high - one.low)


def test_equal_differences_have_limits_of_no_width() -> None:
    agreement = bland_altman(np.full(9, 3.0), np.full(9, 1.0))
    assert agreement.upper == agreement.lower == agreement.bias
