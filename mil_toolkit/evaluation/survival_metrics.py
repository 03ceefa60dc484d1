"""Metrics of predicted survival, collected in `SURVIVAL_METRICS`.

A metric takes `SurvivalPredicted` and weights (..., n) of the patients, and returns scores (...). Predictions
and weights may both have leading axes, as in metrics.py. `metrics_at` returns the same scores of `Predicted`.
Scores that weight patients by the inverse of their
probability of not being censored (IPCW) take this probability from the training patients of each fold, as
scikit-survival does, so that draws of the held-out patients do not change it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation import pairs
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.metrics import Metric, Predicted, metrics_of
from mil_toolkit.evaluation.survival_curves import StepCurve, censoring_curve
from mil_toolkit.evaluation.weighted import mean, ratio


@dataclass(frozen=True)
class SurvivalPredicted:
    """Predicted survival of n patients at G times.

    times: (n,), of the event or of censoring; events: (n,) bool; folds: (n,)
    risks: (..., n), the higher the earlier the event is expected, such as the risk at the horizon
    grid: (G,) times, ascending, of which the last is the horizon; survival: (..., n, G), the probability of
        no event up to each
    uncensored_then: (n,), the probability of not being censored up to the patient's own time
    uncensored: (n, G), that up to each time of the grid; both are 0 where no training patient was followed
        for so long
    """

    times: np.ndarray
    events: np.ndarray
    folds: np.ndarray
    risks: np.ndarray
    grid: np.ndarray
    survival: np.ndarray
    uncensored_then: np.ndarray
    uncensored: np.ndarray

    @property
    def horizon(self) -> float:
        """The last time of the grid."""
        return float(self.grid[-1])


@dataclass(frozen=True)
class Uncensored:
    """Probabilities of not being censored; see the fields of the same meaning of `SurvivalPredicted`."""

    then: np.ndarray
    on_grid: np.ndarray


def uncensored(times: np.ndarray, events: np.ndarray, folds: np.ndarray, grid: np.ndarray) -> Uncensored:
    """Return the probabilities of not being censored, from the patients of the other folds.

    times, events, folds: (n,); grid: (G,). Of a single fold, they are from its own patients.
    """
    then, on_grid = np.empty(len(times)), np.empty((len(times), len(grid)))
    single = len(np.unique(folds)) == 1
    for fold in np.unique(folds):
        inside = folds == fold
        training = inside if single else ~inside
        curve = censoring_curve(times[training], events[training])
        then[inside], on_grid[inside] = by_curve(curve, times[inside], grid)
    return Uncensored(then, on_grid)


def by_curve(curve: StepCurve, times: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a censoring curve at the times (n,) of patients, and at the grid (n, G)."""
    return curve.at(times), np.broadcast_to(curve.at(grid), (len(times), len(grid)))


# The order of the patients.


def _earlier(predicted: SurvivalPredicted, places: np.ndarray) -> np.ndarray:
    """Return which patient of the row is known to have the event before the patient of the column, (m, m)."""
    times, events = predicted.times[places], predicted.events[places]
    before = times[:, None] < times
    censored_then = (times[:, None] == times) & ~events
    return (events[:, None] & (before | censored_then)).astype(float)


def concordance_harrell(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of comparable pairs in which the earlier event has the higher risk (Harrell 1982).

    A pair of patients of the same fold is comparable if the event of one happens before the time of the
    other, or at the time at which the other is censored. Equal risks count one half.
    """
    return pairs.concordance(predicted.risks, predicted.folds, weights, _before(predicted))


def _before(predicted: SurvivalPredicted) -> pairs.Comparable:
    return lambda places: _earlier(predicted, places)


def _harrell_influence(predicted: SurvivalPredicted) -> np.ndarray:
    return pairs.influence(predicted.risks, predicted.folds, _before(predicted))


def concordance_uno(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the concordance of events before the horizon, free of the censoring (Uno et al. 2011).

    A pair is weighted by the inverse square of the probability that the earlier event was not censored.
    """
    return pairs.concordance(predicted.risks, predicted.folds, weights, _before_horizon(predicted))


def _before_horizon(predicted: SurvivalPredicted) -> pairs.Comparable:
    before = predicted.times < predicted.horizon
    shares = ratio(before.astype(float), predicted.uncensored_then**2)
    factors = np.where(np.isnan(shares), 0, shares)

    return lambda places: _earlier(predicted, places) * factors[places][:, None]


def _uno_influence(predicted: SurvivalPredicted) -> np.ndarray:
    return pairs.influence(predicted.risks, predicted.folds, _before_horizon(predicted))


# Probabilities.


def squared_errors(predicted: SurvivalPredicted) -> np.ndarray:
    """Return the squared error of each patient at each time of the grid with IPCW, (..., n, G).

    Graf et al. 1999: a patient who was censored before a time has no error there; those who were not have the
    weight of such patients too.
    """
    died = (predicted.times[:, None] <= predicted.grid) & predicted.events[:, None]
    alive = predicted.times[:, None] > predicted.grid
    of_died = _inverse(died, predicted.uncensored_then[:, None])
    of_alive = _inverse(alive, predicted.uncensored)
    return np.asarray(predicted.survival**2 * of_died + (1 - predicted.survival) ** 2 * of_alive)


def _inverse(counted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return counted / probability, and 0 where nothing is counted or the probability is 0."""
    return np.where(counted & (probabilities > 0), 1 / np.where(probabilities > 0, probabilities, 1), 0.0)


def integrated_errors(predicted: SurvivalPredicted) -> np.ndarray:
    """Return the mean over time of each patient's squared errors, (..., n), by the trapezoidal rule."""
    grid = predicted.grid
    return np.trapezoid(squared_errors(predicted), grid, axis=-1) / (grid[-1] - grid[0])


def integrated_brier(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the Brier score with IPCW, averaged over the times of the grid (Graf et al. 1999)."""
    return mean(integrated_errors(predicted), weights)


def brier_at_horizon(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the Brier score with IPCW of the risk at the horizon (Graf et al. 1999)."""
    return mean(squared_errors(predicted)[..., -1], weights)


def observed_to_expected(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the observed risk at the horizon divided by the mean predicted one (calibration in the large).

    McLernon et al. 2023, "Assessing performance and clinical usefulness in prediction models with survival
    outcomes". The observed risk is that of the Kaplan-Meier curve of the weighted patients. 1 is best; above
    1, the risks are too low.
    """
    return ratio(observed_risk(predicted, weights), mean(1 - predicted.survival[..., -1], weights))


def observed_risk(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the risk at the horizon by the Kaplan-Meier curve of the patients with weights (..., n)."""
    moments = np.unique(predicted.times[predicted.events & (predicted.times <= predicted.horizon)])
    at_risk = weights @ (predicted.times[:, None] >= moments)  # (..., T)
    died = weights @ ((predicted.times[:, None] == moments) & predicted.events[:, None])
    hazards = died / np.where(at_risk > 0, at_risk, 1)
    return np.asarray(1 - (1 - hazards).prod(-1))


SURVIVAL_METRICS: dict[str, Measure[SurvivalPredicted]] = {
    "concordance_harrell": Measure(concordance_harrell, "share", training=40, influence=_harrell_influence),
    "concordance_uno": Measure(concordance_uno, "share", training=40, influence=_uno_influence),
    "integrated_brier": Measure(integrated_brier, "positive", higher_is_better=False, training=0),
    "brier_at_horizon": Measure(brier_at_horizon, "positive", higher_is_better=False, training=0),
}
"""The metrics of `SurvivalPredicted`; `metrics_at` returns those of tables of predictions."""


# Tables of predictions.

GRID = 10  # times at which the survival is predicted


def grid_of(horizon: float) -> np.ndarray:
    """Return the times at which the survival is predicted, (G,): equal steps up to the horizon.

    >>> grid_of(5.0).tolist()
    [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    """
    return horizon * np.arange(1, GRID + 1) / GRID


def survival_of(predicted: Predicted, horizon: float) -> SurvivalPredicted:
    """Return predictions of survival from those of a table.

    predicted: labels (n, 2), time and event; probabilities (..., n, 1 + G), the risk at the horizon and the
        survival at the times of `grid_of`
    """
    times, events = predicted.labels[:, 0], predicted.labels[:, 1] == 1
    grid, values = grid_of(horizon), predicted.probabilities
    chances = uncensored(times, events, predicted.folds, grid)
    return SurvivalPredicted(
        times, events, predicted.folds, values[..., 0], grid, values[..., 1:], chances.then, chances.on_grid
    )


def calibration_at_horizon(predicted: SurvivalPredicted, weights: np.ndarray) -> np.ndarray:
    """Return the distance of the mean predicted risk at the horizon from the observed one, at best 0."""
    expected = mean(1 - predicted.survival[..., -1], weights)
    return np.abs(observed_risk(predicted, weights) - expected)


def metrics_at(horizon: float) -> dict[str, Metric]:
    """Return the metrics of tables of predictions with this horizon, by name.

    The calibration at the horizon has no interval, because it is a distance whose sign is lost.
    """
    measures = {name: _of_table(measure, horizon) for name, measure in SURVIVAL_METRICS.items()}
    calibration = _scored(calibration_at_horizon, horizon)
    return metrics_of(measures) | {
        "calibration_at_horizon": Metric(calibration, higher_is_better=False, resampled=False)
    }


def _of_table(measure: Measure[SurvivalPredicted], horizon: float) -> Measure[Predicted]:
    own = measure.influence
    return Measure(
        _scored(measure.of, horizon),
        measure.scale,
        measure.higher_is_better,
        measure.training,
        influence=None if own is None else lambda predicted: own(survival_of(predicted, horizon)),
    )


def _scored(
    score: Callable[[SurvivalPredicted, np.ndarray], np.ndarray], horizon: float
) -> Callable[[Predicted, np.ndarray], np.ndarray]:
    return lambda predicted, weights: score(survival_of(predicted, horizon), weights)
