"""Deviance residuals of predicted survival."""

import numpy as np
import pytest

from mil_toolkit.evaluation.survival_metrics import grid_of
from mil_toolkit.evaluation.survival_residuals import deviance_residuals


def predictions(rate: float, count: int) -> np.ndarray:
    """Survival with a constant hazard up to the horizon of 4."""
    survival = np.exp(-rate * grid_of(4))
    return np.tile([1 - survival[-1], *survival], (count, 1))


def test_residuals_are_those_of_a_constant_hazard() -> None:
    targets = np.array([[0.5, 1], [3.0, 1], [3.0, 0], [4.0, 0]])
    residuals = deviance_residuals(targets, predictions(0.3, 4), 4)
    for (time, event), residual in zip(targets, residuals, strict=True):
        expected = 0.3 * time
        martingale = event - expected
        deviance = -2 * (martingale + event * np.log(expected))
        assert residual == pytest.approx(np.sign(martingale) * np.sqrt(deviance))


def test_an_event_after_the_horizon_counts_as_none() -> None:
    targets = np.array([[9.0, 1], [4.5, 0], [4.0, 0]])
    residuals = deviance_residuals(targets, predictions(0.3, 3), 4)
    assert residuals[0] == residuals[1] == residuals[2] < 0


def test_early_events_of_patients_with_a_low_risk_are_the_least_expected() -> None:
    targets = np.array([[0.1, 1.0]] * 3)
    values = np.concatenate([predictions(rate, 1) for rate in (0.1, 0.5, 2.0)])
    residuals = deviance_residuals(targets, values, 4)
    assert residuals[0] > residuals[1] > residuals[2] > 0


def test_impossible_predictions_have_finite_residuals() -> None:
    values = np.array([[1.0, *np.zeros(10)], [0.0, *np.ones(10)]])
    residuals = deviance_residuals(np.array([[4.0, 0], [1.0, 1]]), values, 4)
    assert np.isfinite(residuals).all() and residuals[0] < -3 and residuals[1] > 3
