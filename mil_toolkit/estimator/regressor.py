"""`MILRegressor`: an estimator of a number."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin

from mil_toolkit.estimator.base import MILEstimator
from mil_toolkit.estimator.parameters import HEAD_PARAMETERS, defaults_for, keyword_init
from mil_toolkit.estimator.targets import numbers
from mil_toolkit.outcomes.number import LOG, Number
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.training.arrays import BagError, Data


class MILRegressor(RegressorMixin, MILEstimator):  # type: ignore[misc]
    """Multiple instance regression of a number, with metadata, as a scikit-learn estimator.

    `X`, the procedure and `groups` are those of `MILClassifier`; `y` holds finite numbers. The head learns
    the standardised number by Huber's loss, and an affine recalibration is fitted to the out-of-fold
    predictions. `score` is the coefficient of determination R².

    Parameters of the procedure:

    - folds: number of inner folds, stratified by ranges of y; 1 for a single 80/20 split
    - members: number of seeds whose outputs are averaged
    - objective: the metric that chooses the number of epochs
    - seed: all random numbers derive from it
    - device: auto, cpu, cuda or cuda:i
    - transform: `log` to learn the logarithm of numbers above 0

    Attributes after `fit` are those of `MILClassifier`, without `classes_`; `decision_` is a `NumberRule`.

    Parameters of the head:
    """

    __init__ = keyword_init("MILRegressor", defaults_for("number", transform=None))
    __doc__ += HEAD_PARAMETERS

    def predict(self, X: Data) -> np.ndarray:
        """Return numbers (B,) in the unit of y.

        Raises NotFittedError before `fit`, and BagError for bags that cannot be used or differ from those of
        `fit`. Warns of words that `fit` never saw, which count as missing.
        """
        return np.asarray(self._predictions(X).values)

    def _read_outcomes(self, y: ArrayLike) -> tuple[Outcome, np.ndarray]:
        if self.transform not in (None, LOG):
            raise BagError(f"transform={self.transform!r} is neither None nor {LOG!r}.")
        return Number(transform=self.transform), numbers(y, above_zero=self.transform == LOG)
