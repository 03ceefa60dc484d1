"""Spreads of numbers, and tails of measures."""

import math

import numpy as np
import pytest

from mil_toolkit.bundle.domain.records import ImageSpace, Spread, Tail


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1000.0])
def test_distances_of_positive_numbers_do_not_depend_on_the_unit(factor: float) -> None:
    values = np.exp(np.random.default_rng(0).normal(2, 1, 200))
    new = np.array([0.01, 3.0, 1e5])
    expected = Spread.of(values).distances(new)
    np.testing.assert_allclose(Spread.of(values * factor).distances(new * factor), expected, rtol=1e-9)


def test_the_outer_quantiles_are_at_distance_one_and_the_middle_at_zero() -> None:
    for values in (np.arange(1.0, 102.0), np.arange(-50.0, 51.0)):
        spread = Spread.of(values)
        assert spread.logarithms == (values.min() > 0)
        ends = np.exp([spread.low, spread.middle, spread.high])
        ends = ends if spread.logarithms else np.array([spread.low, spread.middle, spread.high])
        np.testing.assert_allclose(spread.distances(ends), [1, 0, 1], atol=1e-12)


def test_missing_values_are_not_far_and_impossible_ones_are() -> None:
    spread = Spread.of(np.array([2.0, 3.0, 4.0, 5.0, np.nan]))
    missing, zero, negative, tiny = spread.distances(np.array([np.nan, 0.0, -3.0, 1e-300]))
    assert missing == 0 and zero == negative == tiny > 5
    assert not np.isinf(spread.distances(np.array([0.0, 1e300]))).any()


def test_the_largest_and_smallest_numbers_have_a_usual_range() -> None:
    for value in (1e308, 5e-324):
        low, high = Spread.of(np.full(9, value)).usual()[0]
        assert 0 < low <= high < math.inf


def test_zero_is_not_far_where_training_patients_had_it() -> None:
    spread = Spread.of(np.array([0.0, 0.0, 2.0, 4.0, 8.0]))
    assert spread.zeros and spread.distances(np.array([0.0]))[0] == 0


@pytest.mark.parametrize("values", [np.array([]), np.full(5, np.nan), np.zeros(5), np.full(5, 7.0)])
def test_a_column_without_variation_takes_its_own_value_only(values: np.ndarray) -> None:
    spread = Spread.of(values)
    own = values[0] if len(values) and not np.isnan(values[0]) else 0.0
    assert spread.distances(np.array([own]))[0] == 0
    assert spread.distances(np.array([own + 100.0]))[0] > 20


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_a_number_is_compared_with_what_images_let_expect(factor: float) -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(300, 4))
    values = factor * np.exp(2 + images[:, 0] + 0.1 * random.normal(size=300))
    spread = Spread.of(values, images)
    assert spread.guess is not None and spread.high - spread.low < 0.5
    usual = factor * np.exp(2 + images[:5, 0])
    np.testing.assert_array_less(spread.distances(usual, images[:5]), 1)
    assert (spread.distances(usual * 100, images[:5]) > 20).all()
    low, high = spread.usual(images[:5]).T
    assert (low < usual).all() and (usual < high).all()
    assert spread.distances(np.array([np.nan]), images[:1])[0] == 0


def test_surprise_is_the_logarithm_of_the_share_that_an_exponential_tail_has_beyond() -> None:
    measures = np.random.default_rng(0).exponential(size=200_000)
    tail = Tail.of(measures)
    for share in (0.09, 0.01, 0.001):
        surprise = tail.surprise(np.array([-math.log(share)]))[0]
        assert surprise == pytest.approx(-math.log(share), rel=0.02)
    assert tail.surprise(np.array([0.0]))[0] == 0


def test_a_measure_that_no_held_out_patient_had_is_as_rare_as_their_number_allows() -> None:
    tail = Tail.of(np.zeros(99))
    just_beyond, far = tail.surprise(np.array([1e-9, 1.0]))
    assert just_beyond == pytest.approx(math.log(100)) and far > just_beyond


def test_measures_of_a_small_weight_are_less_surprising() -> None:
    measures = np.random.default_rng(0).exponential(size=500)
    usual, light = Tail.of(measures).surprise(measures), Tail.of(measures, weight=0.2).surprise(measures)
    beyond = usual > 0
    np.testing.assert_allclose(usual[beyond] - light[beyond], math.log(5))
    assert Tail.of(measures[:2], weight=0.1).share < 1


def test_records_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="ascending"):
        Spread(2.0, 1.0, 3.0, False, False, 1.0)
    with pytest.raises(ValueError, match="ascending"):
        Spread(-math.inf, 1.0, 3.0, False, False, 1.0)
    for low, high in ((0.0, 701.0), (-701.0, 3.0)):
        with pytest.raises(ValueError, match="beyond 700"):
            Spread(low, 2.0, high, True, False, 1.0)
    with pytest.raises(ValueError, match="same number of columns"):
        ImageSpace([0.0, 0.0], [1.0], [1.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="same number of columns"):
        ImageSpace([0.0, 0.0], [1.0, 1.0], [1.0, 1.0], 0.0, [1.0])
