"""Logits of every epoch on the inner folds, and the choices made from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from mil_toolkit.evaluation.calibration import Decision, fit_decision
from mil_toolkit.evaluation.intervals import draw_patients
from mil_toolkit.evaluation.metrics import METRICS, Predicted

THRESHOLD = 0.5  # for metrics that need a threshold before one has been fitted


@dataclass(frozen=True)
class Curves:
    """Logits of K members for B patients in each of E epochs, with the folds that the members trained on.

    logits: (E, K, B). For patients that a member's fold holds out: predictions of the model at the end of the
        epoch. For its training patients: outputs of the training pass, with dropout and before each update.
    folds: (K,) the fold of each member
    trains_on: (F, B) bool, the training patients of each fold
    labels: (B,)
    attention: (N,) attention of each image in the last epoch, averaged over the members that did not train on
        its patient (NaN where there is none). None where it was not computed or there are no images.

    Epochs are counted from 1.
    """

    logits: np.ndarray
    folds: np.ndarray
    trains_on: np.ndarray
    labels: np.ndarray
    attention: np.ndarray | None = None

    @property
    def held_by(self) -> np.ndarray:
        """The first fold that holds each patient out, (B,); meaningless where no fold does."""
        return self.trains_on.argmin(0)

    @property
    def held_out(self) -> np.ndarray:
        """The patients that at least one fold holds out, (B,) bool."""
        return np.logical_not(self.trains_on.all(0))

    def out_of_fold(self, epoch: int) -> np.ndarray:
        """Return each patient's mean logit over the members that did not train on it, (B,); NaN if none."""
        weights = ~self.trains_on[self.folds]  # (K, B)
        with np.errstate(invalid="ignore"):
            return np.asarray((self.logits[epoch - 1] * weights).sum(0) / weights.sum(0))

    def validation(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and out-of-fold probabilities (n,) of the held-out patients, pooled over folds."""
        held_out = self.held_out
        return self.labels[held_out], expit(self.out_of_fold(epoch)[held_out])

    def training(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and probabilities of the training patients, pooled over members."""
        labels, logits = self.training_logits(epoch)
        return labels, expit(logits)

    def training_logits(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and logits of the training patients, pooled over members."""
        member, patient = self.trains_on[self.folds].nonzero()
        return self.labels[patient], self.logits[epoch - 1, member, patient]


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


class Lead(NamedTuple):
    """The amount by which one model is better than another, and the standard error of this difference."""

    difference: float
    error: float


def lead(one: Curves, other: Curves, objective: str) -> Lead:
    """Compare the first epoch of two curves of the same patients, by the metric named `objective`.

    The difference is positive where `one` is better, whichever direction the metric has. Its standard error
    comes from bootstrap draws of the patients, paired between both curves.

    The best of many configurations owes part of its lead to chance, so a lead within one standard error does
    not count. This is the rule of Breiman et al. 1984, section 3.4.3, with the standard error of the paired
    difference in place of the standard error of the score.
    """
    metric, weights = METRICS[objective], draw_patients(one.validation(1)[0])
    scores = [metric.of(_predicted(curves), weights) for curves in (one, other)]
    more = metric.score(*one.validation(1), THRESHOLD) - metric.score(*other.validation(1), THRESHOLD)
    return Lead(more if metric.higher_is_better else -more, float(np.std(scores[0] - scores[1])))


def _predicted(curves: Curves) -> Predicted:
    labels, probabilities = curves.validation(1)
    return Predicted(labels, probabilities, probabilities >= THRESHOLD, np.zeros(len(labels)))


def decide(curves: Curves, rule: str, sensitivity: float | None) -> Decision:
    """Fit calibration and threshold to the out-of-fold logits of the first epoch.

    rule, sensitivity: see `fit_decision`
    """
    held_out = curves.held_out
    return fit_decision(curves.out_of_fold(1)[held_out], curves.labels[held_out], rule, sensitivity)
