"""The value of a number that is expected of a patient with such images."""

import numpy as np
import pytest

from mil_toolkit.bundle.domain import guess
from mil_toolkit.bundle.domain.guess import fit_guess


def drawn(count: int, columns: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return values that follow from the first column but for noise, and the columns."""
    random = np.random.default_rng(seed)
    away = random.normal(size=(count, columns))
    return 3 + away[:, 0] + noise * random.normal(size=count), away


def test_errors_are_those_of_regressions_without_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    values, away = drawn(30, 12, 0.5)
    away *= 0.5  # nearer than the distance beyond which embeddings are shortened
    monkeypatch.setattr(guess, "_PENALTIES", np.array([0.2]))
    fitted = fit_guess(values, away)
    assert fitted is not None
    for left_out in range(3):
        others = np.arange(30) != left_out
        x, y = away[others], values[others]
        # The penalty stays that of all 30 patients, and the intercept is not penalised.
        design = np.c_[np.ones(29), x]
        penalty = np.diag([0.0, *([30 * 0.2] * 12)])
        solution = np.linalg.solve(design.T @ design + penalty, design.T @ y)
        expected = values[left_out] - np.r_[1, away[left_out]] @ solution
        assert fitted[1][left_out] == pytest.approx(expected, rel=1e-6)
    # With a centred design, the same system gives the weights of all patients.
    design = np.c_[np.ones(30), away]
    penalty = np.diag([0.0, *([30 * 0.2] * 12)])
    solution = np.linalg.solve(design.T @ design + penalty, design.T @ values)
    np.testing.assert_allclose([fitted[0].intercept, *fitted[0].weights], solution, rtol=1e-6, atol=1e-9)


def test_what_images_tell_is_found_and_else_the_mean_is_expected() -> None:
    values, away = drawn(80, 60, 0.3)
    fitted = fit_guess(values, away)
    assert fitted is not None and np.abs(fitted[1]).std() < 0.6 * values.std()
    noise = np.random.default_rng(1).normal(5, 1, 80)
    fitted = fit_guess(noise, away)
    assert fitted is not None
    new = np.random.default_rng(2).normal(size=(50, 60))
    np.testing.assert_allclose(fitted[0].expect(new), 5, atol=0.7)


def test_images_far_away_tell_no_more_than_those_at_the_farthest_distance() -> None:
    values, away = drawn(80, 5, 0.1)
    fitted = fit_guess(values, away)
    assert fitted is not None
    near, far = fitted[0].expect(np.array([[3.0, 0, 0, 0, 0], [3000.0, 0, 0, 0, 0]]))
    limit = fitted[0].expect(np.array([[1.5 * 5**0.5, 0, 0, 0, 0]]))[0]
    assert near < limit and far == pytest.approx(limit)
    assert limit == pytest.approx(3 + 1.5 * 5**0.5, rel=0.1)


@pytest.mark.parametrize("values", [np.arange(9.0), np.full(50, 7.0), np.zeros(50)])
def test_few_values_and_equal_ones_are_not_expected_from_images(values: np.ndarray) -> None:
    assert fit_guess(values, np.random.default_rng(0).normal(size=(len(values), 3))) is None


def test_images_that_do_not_differ_tell_nothing() -> None:
    fitted = fit_guess(np.arange(20.0), np.zeros((20, 3)))
    assert fitted is not None
    np.testing.assert_allclose(fitted[0].expect(np.ones((2, 3))), 9.5)


def test_only_leading_columns_are_counted() -> None:
    values, away = drawn(80, 60, 0.3)
    fitted = fit_guess(values, away)
    assert fitted is not None and len(fitted[0].weights) == 16
    changed = np.concatenate([away[:, :16], np.zeros((80, 44))], 1)
    np.testing.assert_array_equal(fitted[0].expect(away), fitted[0].expect(changed))
