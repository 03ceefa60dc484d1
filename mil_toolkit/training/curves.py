"""Logits of every epoch on the inner folds, and the choices made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.evaluation.metrics import Metric, Predicted
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome


@dataclass(frozen=True)
class Curves:
    """Logits of K members for B patients in each of E epochs, with the folds that the members trained on.

    logits: (E, K, B), or (E, K, B, C) if the head has several outputs. For patients that a member's fold
        holds out: predictions of the model at the end of the epoch. For its training patients: outputs of the
        training pass, with dropout and before each update.
    folds: (K,) the fold of each member
    trains_on: (F, B) bool, the training patients of each fold
    labels: the targets of the patients
    attention: (N,) attention of each image in the last epoch, averaged over the members that did not train on
        its patient (NaN where there is none); (N, C) if each class has its own. None where it was not
        computed or there are no images.
    groups: (B,) the groups of the patients; None if none are declared
    outcome: what is predicted, fitted to the patients

    Epochs are counted from 1.
    """

    logits: np.ndarray
    folds: np.ndarray
    trains_on: np.ndarray
    labels: np.ndarray
    attention: np.ndarray | None = None
    groups: np.ndarray | None = None
    outcome: Outcome = field(default_factory=Binary)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics of the outcome, by name."""
        return self.outcome.scoring.metrics

    @property
    def held_by(self) -> np.ndarray:
        """The first fold that holds each patient out, (B,); meaningless where no fold does."""
        return self.trains_on.argmin(0)

    @property
    def held_out(self) -> np.ndarray:
        """The patients that at least one fold holds out, (B,) bool."""
        return np.logical_not(self.trains_on.all(0))

    def out_of_fold(self, epoch: int) -> np.ndarray:
        """Return each patient's mean logit over the members that did not train on it; NaN if none.

        Shapes: (B,), or (B, C) if the head has several outputs
        """
        weights = ~self.trains_on[self.folds]  # (K, B)
        weights = weights.reshape(weights.shape + (1,) * (self.logits.ndim - 3))
        with np.errstate(invalid="ignore"):
            return np.asarray((self.logits[epoch - 1] * weights).sum(0) / weights.sum(0))

    def validation(self, epoch: int) -> Predicted:
        """Return the out-of-fold predictions of the held-out patients, each with its fold."""
        held_out = self.held_out
        outputs = self.out_of_fold(epoch)[held_out]
        return self.outcome.predicted(outputs, self.labels[held_out], self.held_by[held_out])

    def objective(self, name: str, epoch: int) -> float:
        """Return the metric `name` of the out-of-fold predictions."""
        return self.metrics[name].value(self.validation(epoch))

    def training(self, epoch: int) -> Predicted:
        """Return the predictions of the training patients, pooled over members, which count as folds."""
        labels, logits, members = self.training_logits(epoch)
        return self.outcome.predicted(logits, labels, members)

    def training_logits(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels and logits of the training patients, and the member of each; pooled over members."""
        member, patient = self.trains_on[self.folds].nonzero()
        return self.labels[patient], self.logits[epoch - 1, member, patient], member


def smooth(curve: Sequence[float]) -> np.ndarray:
    """Average each epoch with its neighbours: three epochs, or two at either end.

    >>> smooth([1, 2, 6, 4]).tolist()
    [1.5, 3.0, 4.0, 5.0]
    """
    total, count = (np.convolve(values, np.ones(3))[1:-1] for values in (curve, np.ones(len(curve))))
    return total / count


def best_epoch(curve: Sequence[float], higher_is_better: bool) -> int:
    """Return the epoch, counted from 1, at which the smoothed curve is best; the first one of a tie.

    >>> best_epoch([0.9, 0.5, 0.2, 0.3, 0.4, 0.8], higher_is_better=False)
    4
    """
    smoothed = smooth(curve).round(12)  # values that differ only by rounding error are a tie
    return int(np.argmax(smoothed if higher_is_better else -smoothed)) + 1


def best_epoch_of(curves: Curves, objective: str) -> int:
    """Return the epoch, counted from 1, at which the smoothed objective on held-out patients is best."""
    curve = [curves.objective(objective, epoch) for epoch in range(1, len(curves.logits) + 1)]
    return best_epoch(curve, curves.metrics[objective].higher_is_better)


def decide(curves: Curves, rule: ThresholdRule) -> DecisionRule:
    """Fit the decision rule to the out-of-fold logits of the first epoch; raises as `Outcome.decide`."""
    held_out = curves.held_out
    groups = None if curves.groups is None else curves.groups[held_out]
    outputs = curves.out_of_fold(1)[held_out]
    return curves.outcome.decide(outputs, curves.labels[held_out], rule, groups)
