"""Learning curves of a trial: out-of-fold logits by epoch, the choice of the epoch, and decisions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mil_toolkit.evaluation.calibration import Decision, fit_decision
from mil_toolkit.evaluation.intervals import draw_patients
from mil_toolkit.evaluation.metrics import METRICS, Predicted

THRESHOLD = 0.5  # where a metric needs one inside a trial


@dataclass(frozen=True)
class Curves:
    """Logits of every member for every patient in each epoch.

    logits: (E, K, B), of patients that a member's fold holds out as the epoch left it; of its training patients as
        the epoch's own training pass gave them, with dropout and before each step
    folds: (K,) each member's; trains_on: (F, B) bool; labels: (B,)
    attention: (N,) what each image weighed in the last epoch, by the members that did not train on its patient (NaN
        where none); None where it was not asked for or there are no images
    """

    logits: np.ndarray
    folds: np.ndarray
    trains_on: np.ndarray
    labels: np.ndarray
    attention: np.ndarray | None = None

    @property
    def held_by(self) -> np.ndarray:
        """(B,) the first fold that holds each patient out; meaningless where none does."""
        return self.trains_on.argmin(0)

    @property
    def held_out(self) -> np.ndarray:
        """(B,) bool, the patients that some fold holds out."""
        return np.logical_not(self.trains_on.all(0))

    def out_of_fold(self, epoch: int) -> np.ndarray:
        """Logits (B,) by the members that did not train on a patient, averaged; NaN where none. Epochs from 1."""
        weights = ~self.trains_on[self.folds]  # (K, B)
        with np.errstate(invalid="ignore"):
            return np.asarray((self.logits[epoch - 1] * weights).sum(0) / weights.sum(0))

    def validation(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities (n,) of the held-out patients, pooled over folds."""
        kept = self.held_out
        return self.labels[kept], expit(self.out_of_fold(epoch)[kept])

    def training(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities of the training patients, pooled over members."""
        labels, logits = self.training_logits(epoch)
        return labels, expit(logits)

    def training_logits(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits of the training patients, pooled over members."""
        member, patient = self.trains_on[self.folds].nonzero()
        return self.labels[patient], self.logits[epoch - 1, member, patient]


OnEpoch = Callable[[Curves, float], None]


@dataclass(frozen=True)
class Trial:
    """One configuration on the inner folds: its one epoch (from 1), the objective there, and all curves."""

    epoch: int
    value: float
    curves: Curves


def smooth(curve: Sequence[float]) -> np.ndarray:
    """Mean of each epoch with its neighbours: three epochs, two at the ends."""
    total, count = (np.convolve(each, np.ones(3))[1:-1] for each in (curve, np.ones(len(curve))))
    return total / count


def best_epoch(curve: Sequence[float], higher_is_better: bool) -> int:
    """The epoch (from 1) at which the smoothed curve is best; the first of several."""
    smoothed = smooth(curve).round(12)  # what differs by rounding alone is the same
    return int(np.argmax(smoothed if higher_is_better else -smoothed)) + 1


def lead(one: Curves, other: Curves, objective: str) -> tuple[float, float]:
    """By how much the first epoch of `one` is better than that of `other`, and the standard error of the difference.

    Of the same patients, over draws of them. The best of many configurations owes part of its lead to chance: what
    does not lead by more than the error is not chosen. The rule is that of Breiman et al. 1984, section 3.4.3, with
    the error of the paired difference in place of the score's.
    """
    metric, weights = METRICS[objective], draw_patients(one.validation(1)[0])
    scores = [metric.of(_predicted(each), weights) for each in (one, other)]
    more = metric.score(*one.validation(1), THRESHOLD) - metric.score(*other.validation(1), THRESHOLD)
    return more if metric.higher_is_better else -more, float(np.std(scores[0] - scores[1]))


def _predicted(curves: Curves) -> Predicted:
    labels, probabilities = curves.validation(1)
    return Predicted(labels, probabilities, probabilities >= THRESHOLD, np.zeros(len(labels)))


def decide(curves: Curves, rule: str, sensitivity: float | None) -> Decision:
    """Calibration and threshold from the out-of-fold logits of the first epoch of some curves."""
    kept = curves.held_out
    return fit_decision(curves.out_of_fold(1)[kept], curves.labels[kept], rule, sensitivity)
