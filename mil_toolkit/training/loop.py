"""Training of K heads at once; see `train`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.head import MetadataDirect, MILModel
from mil_toolkit.model.layers import dropout_of, generators
from mil_toolkit.training.inputs import Batch, Inputs
from mil_toolkit.training.losses import drop_instances, member_losses, patient_weights
from mil_toolkit.training.optimizer import Optimizer


@dataclass(frozen=True)
class Member:
    """One model of a population: the fold whose training patients it learns from, and its seed."""

    fold: int
    seed: int


class Epoch(NamedTuple):
    """What an epoch ends with: the model, and the logits (K, B) that it gave on the way, before each of its steps."""

    model: MILModel
    logits: Tensor


def train(inputs: Inputs, config: HeadConfig, members: Sequence[Member], order_seed: int) -> Iterator[Epoch]:
    """Train K members in lockstep; yields what each of `config.epochs` epochs ends with.

    All members walk through the same mini-batches, which `order_seed` shuffles. A member's loss in a
    mini-batch is the mean over its own training patients in it; it does not move where there are none.
    The caller stops the training by not asking for the next epoch.
    """
    population = _Population(inputs, config, members)
    shuffle = torch.Generator().manual_seed(order_seed)
    for epoch in range(config.epochs):
        order = torch.randperm(len(inputs.patients), generator=shuffle)
        logits = population.walk(order, config.learning_rate * config.gamma**epoch)
        yield Epoch(population.model, logits)


class _Step(NamedTuple):
    """What one mini-batch of b patients and n instances takes.

    kept: (K, n) bool, the instances that dropout leaves in, None for all; metadata: (K, b, M); labels: (b,);
    weights: (K, b) in each member's loss; active: K truths, the members that train on any of the patients
    """

    batch: Batch
    kept: Tensor | None
    metadata: Tensor
    labels: Tensor
    weights: Tensor
    active: Sequence[bool]


class _Population:
    """K members and all that they train on, on the device before the first epoch."""

    def __init__(self, inputs: Inputs, config: HeadConfig, members: Sequence[Member]):
        self.inputs, self.config = inputs, config
        self.random = generators([member.seed for member in members], inputs.device)
        self.folds = folds = [member.fold for member in members]
        self.metadata = inputs.metadata[folds]  # (K, B, M)
        self.model = MILModel(config, inputs.embedding_width(config), self.metadata.shape[-1], self.random)
        self.model.to(inputs.device)
        if config.logistic_start and isinstance(self.model.branch, MetadataDirect):
            self.model.start_at(inputs.logistic(config.class_weights)[folds])
        self.weights = patient_weights(inputs, config)[folds]  # (K, B)
        self.labels = torch.from_numpy(inputs.patients.labels).float().to(inputs.device)
        self.optimizer = Optimizer(self.model, config)

    def walk(self, order: Tensor, rate: float) -> Tensor:
        """One epoch through the patients in this order (B,); the logits (K, B) of its training pass."""
        steps = self._plan(order)
        logits = torch.cat([self._take(step, rate) for step in steps], 1)
        walked = torch.cat([step.batch.patients for step in steps])  # the order, on the device
        return torch.empty_like(logits).index_copy_(1, walked, logits)

    def _plan(self, order: Tensor) -> list[_Step]:
        """The steps of an epoch. All that is moved or drawn is so before the first: none of them waits for a copy."""
        at_once = self.config.batch_size
        batches = self.inputs.batches(order, at_once)
        walked = torch.cat([batch.patients for batch in batches])
        metadata = self.metadata.index_select(1, walked).split(at_once, 1)
        labels = self.labels.index_select(0, walked).split(at_once)
        weights = self.weights.index_select(1, walked).split(at_once, 1)
        learns = self.inputs.trains_on[self.folds]  # (K, B), on the CPU as the order
        active = [learns[:, part].any(1).tolist() for part in order.split(at_once)]
        return [*map(_Step, batches, self._kept(batches), metadata, labels, weights, active)]

    def _kept(self, batches: Sequence[Batch]) -> Sequence[Tensor | None]:
        """Instances of each mini-batch that dropout leaves in; None where it leaves all."""
        rate = self.config.instance_dropout
        if rate == 0 or self.model.pooling is None:
            return [None] * len(batches)
        kept = drop_instances([size for batch in batches for size in batch.sizes], rate, self.random)
        return kept.split([len(batch.rows) for batch in batches], 1)

    def _take(self, step: _Step, rate: float) -> Tensor:
        """Move the members by one mini-batch; the logits (K, b) before that."""
        bags = self.inputs.instances(self.config, step.batch, self.folds, step.kept)
        logits = self.model(bags, step.metadata, dropout_of(self.random))
        loss = member_losses(logits, step.labels, step.weights, self.config).sum()
        self.optimizer.step(loss, rate, step.active)
        return logits.total.detach()


@torch.inference_mode()
def predict(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> Tensor:
    """Logits of every patient by every member: (K, B) on the CPU; `folds` are the members' own."""
    config = model.config
    metadata = inputs.metadata[list(folds)]
    parts = [
        model(inputs.instances(config, batch, folds), metadata.index_select(1, batch.patients)).total
        for batch in inputs.batches(torch.arange(len(inputs.patients)), config.batch_size)
    ]
    return torch.cat(parts, 1).float().cpu()


@torch.inference_mode()
def predict_held_out(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> Tensor:
    """Logits (K, B) of the patients that each member's fold holds out, on the device; zero elsewhere."""
    logits = torch.zeros(len(folds), len(inputs.patients), device=inputs.device)
    bags_at_once = model.config.batch_size * len(
        inputs.trains
    )  # one fold's members take what all do in training
    held_out = inputs.held_out(bags_at_once)
    tensors = list(chain(model.named_parameters(), model.named_buffers()))
    for fold in dict.fromkeys(folds):
        in_fold = [k for k, each in enumerate(folds) if each == fold]
        members = inputs.index(in_fold)
        heads = {name: value.index_select(0, members) for name, value in tensors}
        for batch in held_out[fold]:
            bags = inputs.instances(model.config, batch, [fold] * len(in_fold))
            metadata = inputs.metadata[fold].index_select(0, batch.patients).expand(len(in_fold), -1, -1)
            logits[members[:, None], batch.patients] = functional_call(model, heads, (bags, metadata)).total
    return logits
