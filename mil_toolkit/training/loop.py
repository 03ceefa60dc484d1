"""The training loop: K heads trained in lockstep, and their predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.head import MetadataDirect, MILModel
from mil_toolkit.model.layers import Dropout, draw, drawn_dropout, dropout_of, generators, keep_all
from mil_toolkit.training.inputs import Batch, Inputs
from mil_toolkit.training.losses import drop_instances, member_losses, patient_weights
from mil_toolkit.training.optimizer import Optimizer


@dataclass(frozen=True)
class Member:
    """One model of a population: the fold whose training patients it learns from, and its seed."""

    fold: int
    seed: int


class Epoch(NamedTuple):
    """Result of one epoch.

    model: the K members after the epoch
    logits: (K, B) outputs of the training pass, with dropout and before each update
    """

    model: MILModel
    logits: Tensor


def train(inputs: Inputs, config: HeadConfig, members: Sequence[Member], order_seed: int) -> Iterator[Epoch]:
    """Train K members in lockstep for `config.epochs` epochs, and yield the result of each epoch.

    All members see the same mini-batches, shuffled by `order_seed`. The loss of a member is the mean over its
    own training patients in the mini-batch; a member that has none is not updated. The learning rate is
    multiplied by `config.gamma` after each epoch. To stop early, stop iterating.
    """
    population = _Population(inputs, config, members)
    shuffle = torch.Generator().manual_seed(order_seed)
    for epoch in range(config.epochs):
        order = torch.randperm(len(inputs.patients), generator=shuffle)
        logits = population.run_epoch(order, config.learning_rate * config.gamma**epoch)
        yield Epoch(population.model, logits)


class _Step(NamedTuple):
    """Everything that the update on one mini-batch of b patients and n instances needs.

    kept: (K, n) bool, the instances that dropout keeps; None keeps all
    drawn: (K, n) in [0, 1), the orientation of each image; None if there is nothing to draw
    metadata: (K, b, M)
    labels: (b,)
    weights: (K, b), weight of each patient in each member's loss
    active: K booleans, the members that train on at least one of the patients
    dropout: of the embeddings and the metadata
    """

    batch: Batch
    kept: Tensor | None
    drawn: Tensor | None
    metadata: Tensor
    labels: Tensor
    weights: Tensor
    active: Sequence[bool]
    dropout: Dropout


class _Population:
    """K members and their training data, moved to the device before the first epoch."""

    def __init__(self, inputs: Inputs, config: HeadConfig, members: Sequence[Member]):
        self.inputs, self.config = inputs, config
        # On the CPU whatever the device, so that both train the same models.
        self.generators = generators([member.seed for member in members], "cpu")
        self.folds = folds = [member.fold for member in members]
        self.metadata = inputs.metadata[folds]  # (K, B, M)
        widths = inputs.view_widths(config)
        self.model = MILModel(config, sum(widths), self.metadata.shape[-1], self.generators, widths)
        self.model.to(inputs.device)
        if config.logistic_start and isinstance(self.model.branch, MetadataDirect):
            self.model.start_at(inputs.logistic(config.class_weights)[folds])
        self.weights = patient_weights(inputs, config)[folds]  # (K, B)
        self.labels = torch.from_numpy(inputs.patients.labels).float().to(inputs.device)
        self.optimizer = Optimizer(self.model, config)

    def run_epoch(self, order: Tensor, rate: float) -> Tensor:
        """Train on all patients in this order (B,), and return the logits (K, B) of the training pass."""
        order_on_device = order.to(self.inputs.device, non_blocking=True)
        logits = torch.cat([self._update(step, rate) for step in self._prepare(order, order_on_device)], 1)
        return torch.empty_like(logits).index_copy_(1, order_on_device, logits)

    def _prepare(self, order: Tensor, order_on_device: Tensor) -> Iterator[_Step]:
        """Return the steps of an epoch.

        All random draws of the epoch happen here, and all copies to the device except of the indices of very
        large cohorts, so that no step waits for them.
        """
        size = self.config.batch_size
        parts = order.split(size)
        metadata = self.metadata.index_select(1, order_on_device).split(size, 1)
        labels = self.labels.index_select(0, order_on_device).split(size)
        weights = self.weights.index_select(1, order_on_device).split(size, 1)
        trains_on = self.inputs.trains_on[self.folds]  # (K, B), on the CPU like `order`
        active = [trains_on[:, patients].any(1).tolist() for patients in parts]
        sizes = [self.inputs.filled_sizes(patients) for patients in parts]
        kept, drawn = self._draw_kept(sizes), self._draw_orientations(sizes)
        dropouts = self._draw_dropouts([len(patients) for patients in parts])
        batches = self.inputs.batches(order, size)
        return map(_Step, batches, kept, drawn, metadata, labels, weights, active, dropouts)

    def _draw_kept(self, sizes: Sequence[Sequence[int]]) -> Sequence[Tensor | None]:
        """Return the instances of each mini-batch that dropout keeps, (K, n) bool; None keeps all.

        sizes: of the bags of each mini-batch
        """
        rate = self.config.instance_dropout
        if rate == 0 or self.model.pooling is None:
            return [None] * len(sizes)
        kept = drop_instances([*chain(*sizes)], rate, self.generators)
        kept = kept.to(self.inputs.device, non_blocking=True)
        return kept.split([sum(of_batch) for of_batch in sizes], 1)

    def _draw_orientations(self, sizes: Sequence[Sequence[int]]) -> Sequence[Tensor | None]:
        """Draw the orientation of each image, (K, n) for each mini-batch; None if there is only one."""
        if not self.inputs.draws_orientations(self.config):
            return [None] * len(sizes)
        lengths = [sum(of_batch) for of_batch in sizes]
        drawn = draw(self.generators, sum(lengths)).to(self.inputs.device, non_blocking=True)
        return drawn.split(lengths, 1)

    def _draw_dropouts(self, lengths: Sequence[int]) -> Sequence[Dropout]:
        """Return the dropout of each mini-batch, of so many patients.

        The CPU draws when a step needs it, to save memory. For another device everything is drawn at once, in
        the same order, and copied at once.
        """
        if self.inputs.device.type == "cpu":
            return [dropout_of(self.generators)] * len(lengths)
        shapes = [(length, *dropout) for length in lengths for dropout in self.model.dropouts]
        if not shapes:
            return [keep_all] * len(lengths)
        drawn = [(draw(self.generators, rows, width) >= rate).flatten(1) for rows, width, rate in shapes]
        moved = torch.cat(drawn, 1).to(self.inputs.device, non_blocking=True)
        parts = moved.split([rows * width for rows, width, _ in shapes], 1)
        kept = [part.unflatten(1, shape[:2]) for part, shape in zip(parts, shapes, strict=True)]
        count = len(self.model.dropouts)
        return [drawn_dropout(kept[first : first + count]) for first in range(0, len(kept), count)]

    def _update(self, step: _Step, rate: float) -> Tensor:
        """Update the members on one mini-batch, and return their logits (K, b) from before the update."""
        bags = self.inputs.instances(self.config, step.batch, self.folds, step.kept, step.drawn)
        logits = self.model(bags, step.metadata, step.dropout)
        loss = member_losses(logits, step.labels, step.weights, self.config).sum()
        self.optimizer.step(loss, rate, step.active)
        return logits.total.detach()


@torch.inference_mode()
def predict_logits(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> Tensor:
    """Return the logits of all patients by all members, (K, B) on the CPU.

    folds: the fold of each of the K members, which determines the projection and the encoder of its inputs
    """
    config = model.config
    metadata = inputs.metadata[list(folds)]
    logits = [
        model(inputs.instances(config, batch, folds), metadata.index_select(1, batch.patients)).total
        for batch in inputs.batches(torch.arange(len(inputs.patients)), config.batch_size)
    ]
    return torch.cat(logits, 1).float().cpu()


@torch.inference_mode()
def predict_held_out(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> Tensor:
    """Return logits (K, B) of the patients that each member's fold holds out, on the device; others are 0.

    folds: the fold of each of the K members
    """
    logits = torch.zeros(len(folds), len(inputs.patients), device=inputs.device)
    # Only one fold's members run at a time, so F times as many bags fit as in training, where all F folds
    # run.
    batch_size = model.config.batch_size * len(inputs.trains)
    tensors = list(chain(model.named_parameters(), model.named_buffers()))
    for fold in dict.fromkeys(folds):
        numbers = [number for number, member_fold in enumerate(folds) if member_fold == fold]
        members = inputs.device_index(numbers)
        state = {name: value.index_select(0, members) for name, value in tensors}
        for batch in inputs.held_out(batch_size, fold):
            bags = inputs.instances(model.config, batch, [fold] * len(numbers))
            metadata = inputs.metadata[fold].index_select(0, batch.patients).expand(len(numbers), -1, -1)
            outputs = functional_call(model, state, (bags, metadata))
            logits[members[:, None], batch.patients] = outputs.total
    return logits
