"""What a search does with one configuration, and what becomes of the best one (rules of evidence, 3)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from mil_toolkit.config import HeadConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.core.seeds import derive_seeds
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.model.head import MILModel
from mil_toolkit.training.curves import THRESHOLD, Curves, OnEpoch, Trial, best_epoch, smooth
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, predict, predict_held_out, train
from mil_toolkit.training.patients import Patients


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
