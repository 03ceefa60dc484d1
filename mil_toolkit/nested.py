# Floor 3: the nested procedure without Optuna: a trial on inner folds, the choice's members, the refit.
"""What a search does with one configuration, and what becomes of the best one (rules of evidence, 3)."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from mil_toolkit.bundle import FittedHead
from mil_toolkit.calibration import Decision, fit_decision
from mil_toolkit.errors import DataError
from mil_toolkit.evaluation import draw_patients
from mil_toolkit.hparams import HeadConfig
from mil_toolkit.inputs import Inputs, Patients
from mil_toolkit.metrics import METRICS, Predicted
from mil_toolkit.model import MILModel
from mil_toolkit.training import Member, predict, predict_held_out, train

THRESHOLD = 0.5  # where a metric needs one inside a trial


class Diverged(DataError):
    """A configuration whose weights left the finite numbers: a trial is given up, anything later is an error."""


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


def derive_seeds(count: int, *path: int) -> list[int]:
    """Seeds that depend on (seed, repeat, outer fold, trial, ...) and on nothing else."""
    # The length goes in too: SeedSequence takes (1, 2) and (1, 2, 0) for the same.
    return [int(word) for word in np.random.SeedSequence((len(path), *path)).generate_state(count)]


def smooth(curve: Sequence[float]) -> np.ndarray:
    """Mean of each epoch with its neighbours: three epochs, two at the ends."""
    total, count = (np.convolve(each, np.ones(3))[1:-1] for each in (curve, np.ones(len(curve))))
    return total / count


def best_epoch(curve: Sequence[float], higher_is_better: bool) -> int:
    """The epoch (from 1) at which the smoothed curve is best; the first of several."""
    smoothed = smooth(curve).round(12)  # what differs by rounding alone is the same
    return int(np.argmax(smoothed if higher_is_better else -smoothed)) + 1


def run_trial(
    inputs: Inputs, config: HeadConfig, objective: str, seed: Sequence[int], on_epoch: OnEpoch | None = None
) -> Trial:
    """Train one member per inner fold in lockstep and choose the trial's one epoch from their pooled curve.

    Stops after `config.patience` epochs without a better one. `on_epoch(curves, value)` is told the curves so far
    and the smoothed objective after each epoch, and may raise to end the trial.
    """
    higher = METRICS[objective].higher_is_better
    folds = list(range(len(inputs.trains)))
    members = [Member(fold, each) for fold, each in zip(folds, derive_seeds(len(folds), *seed), strict=True)]
    logits: list[np.ndarray] = []
    curve: list[float] = []
    trains_on = inputs.trains_on[folds].to(inputs.device)  # (K, B)
    for epoch, (model, given) in enumerate(train(inputs, config, members, members[0].seed), 1):
        held_out = predict_held_out(model, inputs, folds)
        logits.append(torch.where(trains_on, given, held_out).cpu().numpy())
        if not np.isfinite(logits[-1]).all():
            raise Diverged(f"the logits are no longer finite after epoch {epoch}.")
        curves = _curves(inputs, logits, folds)
        curve.append(METRICS[objective].score(*curves.validation(epoch), THRESHOLD))
        if on_epoch is not None:
            on_epoch(curves, float(smooth(curve)[-1]))
        if epoch - best_epoch(curve, higher) >= config.patience:
            break
    epoch = best_epoch(curve, higher)
    return Trial(epoch, curve[epoch - 1], curves)


def _curves(inputs: Inputs, logits: Sequence[np.ndarray], folds: Sequence[int]) -> Curves:
    labels = inputs.patients.labels
    return Curves(np.stack(logits), np.array(folds), inputs.trains_on.numpy(), labels)


def run_again(inputs: Inputs, config: HeadConfig, epoch: int, members: int, seed: Sequence[int]) -> Curves:
    """The inner folds once more with the same `members` seeds in each, up to `epoch`; curves of that epoch alone."""
    population = [
        Member(fold, each) for fold in range(len(inputs.trains)) for each in derive_seeds(members, *seed)
    ]
    folds = [member.fold for member in population]
    config = dataclasses.replace(config, epochs=epoch)
    *_, (model, _) = train(inputs, config, population, population[0].seed)
    logits = predict(model, inputs, folds).numpy()
    if not np.isfinite(logits).all():
        raise Diverged(
            f"the best configuration diverged under other seeds: {config}. Limit learning_rate by --set."
        )
    return dataclasses.replace(
        _curves(inputs, [logits], folds), attention=_held_out_attention(model, inputs, folds)
    )


@torch.inference_mode()
def _held_out_attention(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> np.ndarray | None:
    packed, config = inputs.patients.bags, model.config
    if packed is None or model.pooling is None:
        return None
    held_out = ~inputs.trains_on[list(folds)]  # (K, B)
    parts = []
    for batch in inputs.batches(torch.arange(len(packed)), config.batch_size):
        instances = inputs.instances(config, batch, folds)
        assert instances is not None
        rows = batch.rows.cpu()[batch.bag.cpu() < len(batch.patients)]  # without those that only fill up
        of_images = held_out[:, packed.bag_of_instance[rows]]  # (K, n)
        weights = model.pooling.attention(instances).float().cpu()[:, : len(rows)]
        parts.append((weights * of_images).sum(0) / of_images.sum(0))
    return torch.cat(parts).double().numpy()


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


def refit(
    patients: Patients,
    config: HeadConfig,
    epoch: int,
    members: int,
    seed: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FittedHead:
    """Fit `members` heads on all these patients for `epoch` epochs; no validation set is needed."""
    inputs = Inputs(patients, [np.arange(len(patients))], device, dtype)
    seeds = derive_seeds(members, *seed)
    config = dataclasses.replace(config, epochs=epoch)
    *_, (model, _) = train(inputs, config, [Member(0, each) for each in seeds], seeds[0])
    projection = inputs.projections(config)[0] if inputs.embedding_width(config) else None
    return FittedHead(model.cpu(), projection, inputs.encoders[0])
