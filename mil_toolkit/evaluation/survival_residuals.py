"""Deviance residuals of predicted survival: how unexpected each patient's time is."""

import numpy as np

from mil_toolkit.evaluation.survival_metrics import grid_of

_LEAST = 1e-6  # survival and cumulative hazard whose logarithm is taken


def deviance_residuals(targets: np.ndarray, values: np.ndarray, horizon: float) -> np.ndarray:
    """Return the deviance residual of each patient, (n,): positive if the event came earlier than predicted.

    targets: (n, 2), time and event; values: (n, 1 + G), the risk at the horizon and the survival at the times
        of `grid_of`, between which the cumulative hazard is linear

    Therneau, Grambsch and Fleming 1990, "Martingale-based residuals for survival models". Patients are
    followed up to the horizon, so that a later event counts as none.
    """
    times, events = targets[:, 0], (targets[:, 1] == 1) & (targets[:, 0] <= horizon)
    moments = np.concatenate([[0.0], grid_of(horizon)])
    hazards = np.pad(-np.log(np.maximum(values[:, 1:], _LEAST)), ((0, 0), (1, 0)))
    seen = np.minimum(times, horizon)
    expected = np.array([np.interp(time, moments, own) for time, own in zip(seen, hazards, strict=True)])
    expected = np.maximum(expected, _LEAST)
    martingale = events - expected
    deviance = 2 * (np.where(events, -np.log(expected), 0.0) - martingale)
    return np.asarray(np.sign(martingale) * np.sqrt(np.maximum(deviance, 0)))
