"""Intervals of any score: ranges, known special cases, groups, and coverage of a mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_toolkit.evaluation.bounds import quantile, wilson
from mil_toolkit.evaluation.class_metrics import (
    OF_EACH_CLASS,
    ORDERED_METRICS,
    balanced_accuracy,
)
from mil_toolkit.evaluation.measure import Measure, Scale
from mil_toolkit.evaluation.measure_intervals import (
    SCALES,
    Patients,
    effective_count,
    influences,
    least_variance,
    measure_interval,
    score_with_interval,
)
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.number_metrics import NUMBER_METRICS, NumberPredicted, through_intercept
from mil_toolkit.evaluation.survival_metrics import SURVIVAL_METRICS, SurvivalPredicted, uncensored
from mil_toolkit.evaluation.weighted import mean, row_sums

RANGES: dict[Scale, tuple[float, float]] = {
    "share": (0, 1),
    "count": (0, np.inf),
    "positive": (0, np.inf),
    "correlation": (-1, 1),
    "explained": (-np.inf, 1),
}


def of_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean(values, weights)


def patients(count: int, cross_validated: int | None = None, units: np.ndarray | None = None) -> Patients:
    numbers = np.arange(count) if units is None else units
    return Patients(numbers, np.zeros(count, dtype=int), cross_validated)


def test_every_scale_has_a_range() -> None:
    assert set(SCALES) == set(RANGES)
    of_classes = {measure.scale for measure in (*ORDERED_METRICS.values(), *OF_EACH_CLASS.values())}
    of_numbers = {measure.scale for measure in NUMBER_METRICS.values()}
    of_survival = {measure.scale for measure in SURVIVAL_METRICS.values()}
    assert of_classes | of_numbers | of_survival == set(RANGES)


def test_the_influence_of_a_patient_on_a_mean_is_its_distance_from_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=450)  # more than two blocks
    found = influences(lambda weights: mean(values, weights), 450)
    np.testing.assert_allclose(found, (values - values.mean()) / 450, atol=1e-8)


@given(
    value=st.floats(-1, 1),
    spread=st.floats(0, 1),
    scale=st.sampled_from(sorted(RANGES)),
    widening=st.sampled_from([0.0, 30.0]),
)
@settings(max_examples=60)
def test_an_interval_contains_the_value_and_stays_in_range(
    value: float, spread: float, scale: Scale, widening: float
) -> None:
    low, high = RANGES[scale]
    inside = min(max(value, low), high)
    influence = spread / 20 * np.where(np.arange(20) % 2, 1.0, -1.0)
    measure = Measure(of_mean, scale, training=widening)
    bounds = measure_interval(measure, inside, influence, patients(20, cross_validated=20))
    assert low <= bounds.low <= inside <= bounds.high <= high
    wider = measure_interval(Measure(of_mean, scale, training=100), inside, influence, patients(20, 20))
    assert wider.low <= bounds.low + 1e-12
    assert wider.high >= bounds.high - 1e-12


@pytest.mark.parametrize("scale", ["share", "correlation", "count"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_score_without_observed_errors_still_has_a_width(scale: Scale, value: float) -> None:
    bounds = measure_interval(Measure(of_mean, scale), value, np.zeros(50), patients(50))
    assert bounds.high - bounds.low > 0.01


def test_the_interval_of_a_proportion_is_that_of_wilson() -> None:
    hits = np.arange(40) < 30
    influence = influences(lambda weights: mean(hits, weights), 40)
    bounds = measure_interval(Measure(of_mean, "share"), 0.75, influence, patients(40))
    expected = wilson(0.75, 40, quantile(39))
    assert bounds.low == pytest.approx(expected.low, abs=2e-3)
    assert bounds.high == pytest.approx(expected.high, abs=2e-3)


def test_the_interval_of_a_positive_mean_is_symmetric_on_the_logarithmic_scale() -> None:
    values = np.random.default_rng(0).exponential(size=100)
    influence = influences(lambda weights: mean(values, weights), 100)
    bounds = measure_interval(Measure(of_mean, "positive"), values.mean(), influence, patients(100))
    assert bounds.low * bounds.high == pytest.approx(values.mean() ** 2)
    error = values.std(ddof=1) / 10
    assert bounds.variance == pytest.approx(error**2, rel=1e-4)


def test_a_score_of_nan_has_no_interval() -> None:
    assert np.isnan(measure_interval(Measure(of_mean, "share"), np.nan, np.zeros(5), patients(5))).all()


def test_a_single_model_is_not_widened() -> None:
    influence, measure = np.tile([0.01, -0.01], 10), Measure(of_mean, "positive", training=30)
    one_model = measure_interval(measure, 1.0, influence, patients(20)).variance
    folds = measure_interval(measure, 1.0, influence, patients(20, cross_validated=20)).variance
    subgroup = measure_interval(measure, 1.0, influence, patients(20, cross_validated=40)).variance
    assert folds == pytest.approx(one_model * (1 + 30 / 20))
    assert subgroup == pytest.approx(one_model * (1 + 30 * 20 / 40**2))


def test_patients_of_a_group_count_as_one() -> None:
    influence = np.tile([0.01, -0.01], 10)
    pairs = np.arange(20) % 4
    alone = measure_interval(Measure(of_mean, "positive"), 1.0, influence, patients(20)).variance
    grouped = measure_interval(Measure(of_mean, "positive"), 1.0, influence, patients(20, units=pairs))
    assert grouped.variance > 4 * alone


def test_a_larger_least_variance_widens_the_interval() -> None:
    influence, measure = np.zeros(10), Measure(of_mean, "positive")
    bounds = measure_interval(measure, 0.1, influence, patients(10), least=0.0025)
    assert bounds.variance == 0.0025
    assert bounds.low < 0.1 < bounds.high


def test_the_least_variance_is_half_of_that_of_one_wrong_patient() -> None:
    assert least_variance(np.full(10, 3.0), np.zeros(10)) == pytest.approx((3 / 10) ** 2 / 2)
    strata = np.array([0] * 8 + [1] * 2)
    expected = ((3 / 2 / 8) ** 2 + (3 / 2 / 2) ** 2) / 2
    assert least_variance(np.full(10, 3.0), strata) == pytest.approx(expected)


def test_equal_classes_have_an_effective_count_of_all_patients() -> None:
    assert effective_count(np.array([0, 0, 1, 1, 2, 2]), balanced=True) == 6
    assert effective_count(np.array([0, 0, 0, 1]), balanced=False) == 4


def test_the_mean_absolute_error_depends_on_the_intercept_where_the_targets_are_skewed() -> None:
    values, targets = np.zeros(4), np.array([-1.0, -1.0, -1.0, 3.0])
    found = through_intercept(NumberPredicted(targets, values, np.zeros(4)))
    step = 1e-6  # moves the target of each patient, and with it the mean
    moved = [np.abs(values + target * step - targets).mean() for target in targets]
    expected = [(error - 1.5) / step / 4 for error in moved]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    even = NumberPredicted(np.array([-1.0, 1.0, -2.0, 2.0]), values, np.zeros(4))
    assert (through_intercept(even) == 0).all()


def test_intervals_of_a_balanced_accuracy_cover() -> None:
    random, rates, covered = np.random.default_rng(0), np.array([0.9, 0.7, 0.8]), []
    labels = np.repeat([0, 1, 2], [40, 25, 15])
    measure = Measure(balanced_accuracy, "share", balanced=True)
    for _ in range(300):
        right = random.random(80) < rates[labels]
        decisions = np.where(right, labels, (labels + 1) % 3)
        predicted = Predicted(labels, np.full((80, 3), 1 / 3), decisions, np.zeros(80))
        influence = influences(lambda weights, own=predicted: balanced_accuracy(own, weights), 80)
        own = Patients(np.arange(80), labels, None)
        low, high, _ = measure_interval(measure, measure.score(predicted, 80), influence, own)
        covered.append(low <= rates.mean() <= high)
    assert 0.93 <= np.mean(covered) <= 0.98


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_the_sums_of_rows_are_those_of_a_product(seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix, weights = random.normal(size=(3, 4)), random.normal(size=(5, 4))
    np.testing.assert_allclose(row_sums(matrix, weights), [matrix @ own for own in weights])
    several = random.normal(size=(5, 3, 4))
    np.testing.assert_allclose(
        row_sums(several, weights), [m @ w for m, w in zip(several, weights, strict=True)]
    )


def drawn() -> tuple[Predicted, NumberPredicted, SurvivalPredicted]:
    random = np.random.default_rng(0)
    labels, folds = np.arange(24) % 3, np.repeat([0, 1], 12)
    raw = random.integers(1, 6, (24, 3)).astype(float)
    times, events = random.integers(1, 9, 24).astype(float), np.arange(24) % 3 > 0
    grid = np.array([2.0, 4.0, 6.0])
    chances = uncensored(times, events, folds, grid)
    survival = np.sort(random.random((24, 3)))[:, ::-1]
    risks = np.round(1 - survival[:, -1], 1)
    return (
        Predicted(labels, raw / raw.sum(1, keepdims=True), raw.argmax(1), folds),
        NumberPredicted(raw[:, 0], raw[:, 1] + raw[:, 0], folds),
        SurvivalPredicted(times, events, folds, risks, grid, survival, chances.then, chances.on_grid),
    )


@pytest.mark.parametrize(
    ("measure", "place"),
    [
        (ORDERED_METRICS["macro_auc"], 0),
        (NUMBER_METRICS["concordance"], 1),
        (SURVIVAL_METRICS["concordance_harrell"], 2),
        (SURVIVAL_METRICS["concordance_uno"], 2),
    ],
)
def test_the_influence_in_closed_form_is_the_derivative(measure: Measure[object], place: int) -> None:
    predicted = drawn()[place]
    assert measure.influence is not None
    expected = influences(lambda weights: measure.of(predicted, weights), 24)
    np.testing.assert_allclose(measure.influence(predicted), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("measure", "place"),
    [
        *((measure, 0) for measure in ORDERED_METRICS.values()),
        *((measure, 1) for measure in NUMBER_METRICS.values()),
        *((measure, 2) for measure in SURVIVAL_METRICS.values()),
    ],
)
def test_every_score_has_an_interval_over_repeats(measure: Measure[object], place: int) -> None:
    predicted = drawn()[place]
    own = patients(24, cross_validated=24)
    once = score_with_interval(measure, [predicted], own)
    assert once.value == pytest.approx(measure.score(predicted, 24))
    assert once.bounds.low < once.value < once.bounds.high
    twice = score_with_interval(measure, [predicted, predicted], own)
    np.testing.assert_allclose([twice.value, *twice.bounds], [once.value, *once.bounds])
    one_model = score_with_interval(measure, [predicted], patients(24))
    assert one_model.bounds.high - one_model.bounds.low <= once.bounds.high - once.bounds.low
