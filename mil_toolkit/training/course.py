"""`Course`: the epochs of one trial as they are scored, and when training stops."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.training.curves import Curves, best_epoch, smooth
from mil_toolkit.training.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class Trial:
    """Result of one configuration on the inner folds.

    epoch: the chosen epoch, counted from 1, the same for all folds
    value: the objective on the pooled out-of-fold predictions of that epoch
    curves: logits of all epochs that were run
    """

    epoch: int
    value: float
    curves: Curves


class OnEpoch(Protocol):
    """A callback that receives each epoch of a trial, to report progress or to prune the trial.

    It receives the curves of all epochs so far, and the smoothed objective of the last one. An exception that
    it raises ends the trial and reaches the caller of `run_trial`.
    """

    def __call__(self, curves: Curves, value: float, /) -> None: ...


class Course:
    """The scored epochs of a trial with one member per inner fold.

    ended: whether training has to stop: all epochs were run, or `config.patience` of them in a row without a
        better one
    """

    def __init__(self, inputs: Inputs, config: HeadConfig, objective: str, on_epoch: OnEpoch | None = None):
        self.inputs, self.config, self.objective, self.on_epoch = inputs, config, objective, on_epoch
        self.ended = False
        self._logits: list[np.ndarray] = []
        self._curve: list[float] = []

    def take(self, logits: np.ndarray) -> None:
        """Score the next epoch from its logits (F, B, ...); see `Curves`.

        Raises Diverged where a logit is not finite, and whatever `on_epoch` raises.
        """
        self._logits.append(logits)
        epoch = len(self._logits)
        if not np.isfinite(logits).all():
            raise Diverged(f"the logits are no longer finite after epoch {epoch}.")
        curves = self._curves()
        self._curve.append(curves.objective(self.objective, epoch))
        if self.on_epoch is not None:
            self.on_epoch(curves, float(smooth(self._curve)[-1]))
        without_better = epoch - self._best
        self.ended = without_better >= self.config.patience or epoch == self.config.epochs

    def result(self) -> Trial:
        """Return the result after the epochs so far."""
        return Trial(self._best, self._curve[self._best - 1], self._curves())

    @property
    def _best(self) -> int:
        return best_epoch(self._curve, self.inputs.outcome.scoring.metrics[self.objective].higher_is_better)

    def _curves(self) -> Curves:
        return curves_of(self.inputs, self._logits, range(len(self.inputs.trains)))


def curves_of(inputs: Inputs, logits: Sequence[np.ndarray], folds: Sequence[int]) -> Curves:
    """Return the curves of K members from the logits (K, B, ...) of each epoch; folds: of the members."""
    patients, trains_on = inputs.patients, inputs.trains_on.numpy()
    return Curves(
        np.stack(logits),
        np.array(folds),
        trains_on,
        patients.labels,
        groups=patients.groups,
        outcome=inputs.outcome,
    )
