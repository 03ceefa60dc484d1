"""The procedure inside one search: a trial, its cross-fitted members, and the refit.

1. `run_trial` trains one member per inner fold. The pooled out-of-fold predictions of all inner folds give
   one validation curve, and its smoothed optimum gives the one epoch that the trial is scored at.
2. `cross_fit_members` trains the inner folds of the chosen configuration again, with the seeds of all
   members. Their out-of-fold predictions are what calibration and threshold are fitted to.
3. `refit` trains the members on all training patients for the chosen number of epochs.

The section "The nested procedure" of docs/explanation/evidence.md describes how a study uses these steps.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.core.seeds import derive_seeds
from mil_toolkit.model.head import MILModel
from mil_toolkit.training.course import Course, OnEpoch, Trial, curves_of
from mil_toolkit.training.curves import Curves
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.joint import JointPopulation, JointTrial, joins
from mil_toolkit.training.loop import Member, predict_held_out, predict_logits, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.readback import read_back


def run_trial(
    inputs: Inputs, config: HeadConfig, objective: str, seed: Sequence[int], on_epoch: OnEpoch | None = None
) -> Trial:
    """Train one member per inner fold in lockstep, and choose one epoch from the pooled out-of-fold curve.

    objective: name of the metric that chooses the epoch
    seed: path that the members' seeds are derived from
    on_epoch: called after each epoch, see `OnEpoch`

    Training stops early after `config.patience` epochs without a better one. Raises Diverged where a logit is
    not finite.
    """
    course = Course(inputs, config, objective, on_epoch)
    for logits in read_back(_epochs(inputs, config, trial_members(inputs, seed)), inputs.device):
        course.take(logits)
        if course.ended:
            break
    return course.result()


def _epochs(inputs: Inputs, config: HeadConfig, members: Sequence[Member]) -> Iterator[Tensor]:
    """Yield the logits (K, B) of each epoch of a trial; on a card by CUDA graphs where `joins` allows it."""
    if inputs.device.type != "cpu" and joins(inputs, config):
        trial = JointTrial(inputs, config, members, members[0].seed)
        yield from JointPopulation(inputs, [trial]).epochs(config.epochs)
        return
    folds = [member.fold for member in members]
    trains_on = inputs.trains_on[folds].to(inputs.device)  # (K, B)
    for model, logits in train(inputs, config, members, members[0].seed):
        held_out = predict_held_out(model, inputs, folds)
        trained = trains_on if held_out.ndim == 2 else trains_on[..., None]
        yield torch.where(trained, logits, held_out)


def trial_members(inputs: Inputs, seed: Sequence[int]) -> list[Member]:
    """Return the members of a trial, one for each fold; seed: path that their seeds are derived from."""
    seeds = derive_seeds(len(inputs.trains), *seed)
    return [Member(fold, member_seed) for fold, member_seed in enumerate(seeds)]


def cross_fit_members(
    inputs: Inputs, config: HeadConfig, epoch: int, member_count: int, seed: Sequence[int]
) -> Curves:
    """Train `member_count` members in every inner fold up to `epoch`, and return the curves of that epoch.

    The members of all folds share the same `member_count` seeds, derived from the path `seed`. The curves
    contain the held-out attention. Raises Diverged where a logit is not finite.
    """
    seeds = derive_seeds(member_count, *seed)
    members = [Member(fold, member_seed) for fold in range(len(inputs.trains)) for member_seed in seeds]
    folds = [member.fold for member in members]
    config = dataclasses.replace(config, epochs=epoch)
    *_, (model, _) = train(inputs, config, members, members[0].seed)
    logits = predict_logits(model, inputs, folds).numpy()
    if not np.isfinite(logits).all():
        raise Diverged(
            f"the best configuration diverged with other seeds: {config}. Limit learning_rate with --set."
        )
    curves = curves_of(inputs, [logits], folds)
    return dataclasses.replace(curves, attention=_held_out_attention(model, inputs, folds))


@torch.inference_mode()
def _held_out_attention(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> np.ndarray | None:
    """Return each instance's mean attention over the members that did not train on its patient.

    (N,), or (N, C) if each class has its own
    """
    bags, config = inputs.patients.bags, model.config
    if bags is None or model.pooling is None:
        return None
    held_out = ~inputs.trains_on[list(folds)]  # (K, B)
    means = []
    for batch in inputs.batches(torch.arange(len(bags)), config.batch_size):
        instances = inputs.instances(config, batch, folds)
        assert instances is not None
        rows = batch.rows.cpu()[batch.bag.cpu() < len(batch.patients)]  # without the padding rows
        attention = model.attention(instances).float().cpu()[:, : len(rows)]
        member_weights = held_out[:, bags.bag_of_instance[rows]]  # (K, n)
        member_weights = member_weights.reshape(*member_weights.shape, *[1] * (attention.ndim - 2))
        means.append((attention * member_weights).sum(0) / member_weights.sum(0))
    return torch.cat(means).double().numpy()


def refit(
    patients: Patients,
    config: HeadConfig,
    epoch: int,
    member_count: int,
    seed: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    ended: Callable[[], object] = lambda: None,
) -> FittedHead:
    """Train `member_count` members on all patients for `epoch` epochs, without validation.

    seed: path that the members' seeds are derived from; dtype: precision of the products in training
    ended: called after each epoch
    """
    inputs = Inputs(patients, [np.arange(len(patients))], device, dtype)
    seeds = derive_seeds(member_count, *seed)
    members = [Member(0, member_seed) for member_seed in seeds]
    config = dataclasses.replace(config, epochs=epoch)
    for trained in train(inputs, config, members, seeds[0]):
        model = trained.model
        ended()
    projection = inputs.projections(config)[0] if inputs.embedding_width(config) else None
    return FittedHead(model.cpu(), projection, inputs.encoders[0])
