"""`MILSurvival`: an estimator of the time to an event, with the methods of scikit-survival."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike

from mil_toolkit.estimator.base import MILEstimator
from mil_toolkit.estimator.parameters import HEAD_PARAMETERS, defaults_for, keyword_init
from mil_toolkit.estimator.targets import survival_times
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.survival import Survival, SurvivalRule
from mil_toolkit.training.arrays import BagError, Data


class MILSurvival(MILEstimator):
    """Multiple instance survival analysis, with metadata, in the manner of scikit-survival.

    `X`, the procedure and `groups` are those of `MILClassifier`. `y` is a structured array (B,) as
    scikit-survival takes it: its first field says whether the event happened (bool) or the patient was
    censored, its second field is the time of that, above 0. The names of the fields are free. The head
    predicts hazards in intervals of time, which are calibrated on the out-of-fold predictions.

    Parameters of the procedure:

    - folds: number of inner folds, stratified by events up to the horizon; 1 for a single 80/20 split
    - members: number of seeds whose outputs are averaged
    - objective: the metric that chooses the number of epochs
    - seed: all random numbers derive from it
    - device: auto, cpu, cuda or cuda:i
    - horizon: the time by which the risk is predicted, in the unit of y; None for the median of event times

    Attributes after `fit` are those of `MILClassifier`, without `classes_`, and

    - `decision_`: cut points and calibration of the hazards (`SurvivalRule`)
    - `horizon_`: the time by which `predict` returns the risk
    - `unique_times_`: (T,) the times of y, ascending, each once

    Parameters of the head:
    """

    decision_: SurvivalRule

    __init__ = keyword_init("MILSurvival", defaults_for("survival", horizon=None))
    __doc__ += HEAD_PARAMETERS

    def predict(self, X: Data) -> np.ndarray:
        """Return risk scores (B,): probabilities of the event up to `horizon_`.

        Raises NotFittedError before `fit`, and BagError for bags that cannot be used or differ from those of
        `fit`. Warns of words that `fit` never saw, which count as missing.
        """
        return np.asarray(self._predictions(X).values[:, 0])

    def predict_survival_function(self, X: Data, return_array: bool = False) -> np.ndarray:
        """Return the survival, i.e. the probability of no event up to a time.

        return_array: return its values at `unique_times_`, (B, T), instead of (B,) step functions of
            scikit-survival; without that package, values are always returned

        Between the ends of the hazards' intervals, the survival is linear in time. Raises as `predict`.
        """
        outputs = self._logits(X).mean(0)
        survival: np.ndarray = self.decision_.survival(outputs, self.unique_times_)
        if return_array or find_spec("sksurv") is None:
            return survival
        step_function = import_module("sksurv.functions").StepFunction
        functions = np.empty(len(survival), dtype=object)
        functions[:] = [step_function(self.unique_times_, values) for values in survival]
        return functions

    def score(self, X: Data, y: ArrayLike) -> float:
        """Return Harrell's concordance index: the share of comparable pairs with their risks in order.

        y: as for `fit`
        Raises BagError where no two bags can be compared, and as `predict`.
        """
        predictions, targets = self._predictions(X), survival_times(y)
        values, decisions = predictions
        if len(targets) != len(values):
            raise BagError(f"X holds {len(values)} bags, y {len(targets)}.")
        predicted = Predicted(targets, values, decisions, np.zeros(len(targets)))
        concordance = Survival(horizon=self.horizon_).scoring.metrics["concordance_harrell"].value(predicted)
        if np.isnan(concordance):
            raise BagError("No two bags can be compared: y needs an event before the time of another bag.")
        return float(concordance)

    def _values(self, outputs: np.ndarray) -> np.ndarray:
        """Return the risk at the horizon, (..., B)."""
        return super()._values(outputs)[..., 0]

    def _read_outcomes(self, y: ArrayLike) -> tuple[Outcome, np.ndarray]:
        """Set `horizon_` and `unique_times_`, and return the outcome with times and events."""
        targets = survival_times(y)
        times, events = targets[:, 0], targets[:, 1] == 1
        self.horizon_ = self._horizon(times[events])
        self.unique_times_ = np.unique(times)
        return Survival(horizon=self.horizon_), targets

    def _horizon(self, event_times: np.ndarray) -> float | None:
        """Return the declared horizon, or the median of the event times; None if there are none."""
        if self.horizon is None:
            return float(np.median(event_times)) if len(event_times) else None
        number = isinstance(self.horizon, int | float | np.integer | np.floating)
        if not (number and 0 < self.horizon < np.inf):
            raise BagError(f"horizon={self.horizon!r} is not a time above 0.")
        return float(self.horizon)
