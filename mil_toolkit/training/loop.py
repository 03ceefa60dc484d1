"""The training loop: K heads trained in lockstep, and their predictions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.head import MetadataDirect, MILModel
from mil_toolkit.model.layers import Dropout, draw, drawn_dropout, dropout_of, generators, keep_all
from mil_toolkit.training.inputs import Batch, Inputs
from mil_toolkit.training.losses import LOSSES, drop_instances, member_losses, patient_weights
from mil_toolkit.training.optimizer import Optimizer


@dataclass(frozen=True)
class Member:
    """One model of a population: the fold whose training patients it learns from, and its seed."""

    fold: int
    seed: int


class Epoch(NamedTuple):
    """Result of one epoch.

    model: the K members after the epoch
    logits: (K, B) or (K, B, C) outputs of the training pass, with dropout and before each update
    """

    model: MILModel
    logits: Tensor


def train(inputs: Inputs, config: HeadConfig, members: Sequence[Member], order_seed: int) -> Iterator[Epoch]:
    """Train K members in lockstep for `config.epochs` epochs, and yield the result of each epoch.

    All members see the same mini-batches, shuffled by `order_seed`. The loss of a member is the mean over its
    own training patients in the mini-batch; a member that has none is not updated. The learning rate is
    multiplied by `config.gamma` after each epoch. To stop early, stop iterating.
    """
    population = Population(inputs, config, members)
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
    targets: (b, ...)
    weights: (K, b), weight of each patient in each member's loss
    active: K booleans, the members that train on at least one of the patients
    dropout: of the instances' layers, the embeddings and the metadata
    """

    batch: Batch
    kept: Tensor | None
    drawn: Tensor | None
    metadata: Tensor
    targets: Tensor
    weights: Tensor
    active: Sequence[bool]
    dropout: Dropout


class Population:
    """K members and their training data, moved to the device before the first epoch.

    optimizer: holds the parameters of `model`
    weights: (K, B) of the patients in each member's loss; metadata: (K, B, M); labels: (B,)
    """

    def __init__(self, inputs: Inputs, config: HeadConfig, members: Sequence[Member]):
        self.inputs, self.config = inputs, config
        # On the CPU whatever the device, so that both train the same models.
        self.generators = generators([member.seed for member in members], "cpu")
        self.folds = folds = [member.fold for member in members]
        self.metadata = inputs.metadata[folds]  # (K, B, M)
        widths = inputs.view_widths(config)
        columns, outputs = self.metadata.shape[-1], inputs.outcome.outputs
        self.model = MILModel(config, sum(widths), columns, self.generators, widths, outputs)
        self.model.to(inputs.device)
        if config.logistic_start and isinstance(self.model.branch, MetadataDirect):
            self.model.start_at(inputs.linear_start(config.class_weights)[folds])
        self.weights = patient_weights(inputs, config)[folds]  # (K, B)
        self.targets, self.loss = inputs.targets, LOSSES[inputs.outcome.kind]
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
        targets = self.targets.index_select(0, order_on_device).split(size)
        weights = self.weights.index_select(1, order_on_device).split(size, 1)
        trains_on = self.inputs.trains_on[self.folds]  # (K, B), on the CPU like `order`
        active = [trains_on[:, patients].any(1).tolist() for patients in parts]
        sizes = [self.inputs.filled_sizes(patients) for patients in parts]
        kept, drawn = self._draw_kept(sizes), self._draw_orientations(sizes)
        dropouts = self._draw_dropouts(
            [(sum(rows), len(ids)) for rows, ids in zip(sizes, parts, strict=True)]
        )
        batches = self.inputs.batches(order, size)
        return map(_Step, batches, kept, drawn, metadata, targets, weights, active, dropouts)

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

    def _draw_dropouts(self, numbers: Sequence[tuple[int, int]]) -> Iterable[Dropout]:
        """Return the dropout of each mini-batch; numbers: of instances and of patients in each.

        The CPU draws when a step needs it, to save memory. For another device everything is drawn in the same
        order and copied at once; with layers on the instances, whose dropouts are large, for one mini-batch
        after the other.
        """
        if self.inputs.device.type == "cpu":
            return [dropout_of(self.generators)] * len(numbers)
        groups = [numbers] if self.model.network is None else [[number] for number in numbers]
        return chain.from_iterable(map(self._moved_dropouts, groups))

    def _moved_dropouts(self, numbers: Sequence[tuple[int, int]]) -> Sequence[Dropout]:
        """Draw the dropouts of these mini-batches, and copy them to the device at once."""
        shapes = [shape for number in numbers for shape in self.model.dropouts(*number)]
        if not shapes:
            return [keep_all] * len(numbers)
        drawn = [(draw(self.generators, rows, width) >= rate).flatten(1) for rows, width, rate in shapes]
        moved = torch.cat(drawn, 1).to(self.inputs.device, non_blocking=True)
        parts = moved.split([rows * width for rows, width, _ in shapes], 1)
        kept = [part.unflatten(1, shape[:2]) for part, shape in zip(parts, shapes, strict=True)]
        count = len(shapes) // len(numbers)
        return [drawn_dropout(kept[first : first + count]) for first in range(0, len(kept), count)]

    def _update(self, step: _Step, rate: float) -> Tensor:
        """Update the members on one mini-batch, and return their logits (K, b) from before the update."""
        bags = self.inputs.instances(self.config, step.batch, self.folds, step.kept, step.drawn)
        logits = self.model(bags, step.metadata, step.dropout)
        loss = member_losses(logits, step.targets, step.weights, self.config, self.loss).sum()
        self.optimizer.step(loss, rate, step.active)
        return logits.total.detach()


@torch.inference_mode()
def predict_logits(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> Tensor:
    """Return the logits of all patients by all members, (K, B) or (K, B, C) on the CPU.

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
def predict_held_out(
    model: MILModel, inputs: Inputs, folds: Sequence[int], values: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Return logits of the patients that each member's fold holds out, on the device; others are 0.

    Shapes: (K, B), or (K, B, C) if the head has several outputs

    folds: the fold of each of the K members
    values: parameters and buffers of the K members by name; None for those of the model
    """
    several = [model.outputs] if model.outputs > 1 else []
    logits = torch.zeros(len(folds), len(inputs.patients), *several, device=inputs.device)
    # Only one fold's members run at a time, so F times as many bags fit as in training, where all F folds
    # run.
    batch_size = model.config.batch_size * len(inputs.trains)
    if values is None:
        values = dict(chain(model.named_parameters(), model.named_buffers()))
    for fold in dict.fromkeys(folds):
        numbers = [number for number, member_fold in enumerate(folds) if member_fold == fold]
        members = inputs.device_index(numbers)
        state = {name: value.index_select(0, members) for name, value in values.items()}
        for batch in inputs.held_out(batch_size, fold):
            bags = inputs.instances(model.config, batch, [fold] * len(numbers))
            if bags is not None:  # a product of members side by side would spread what is not finite
                bags = replace(bags, x=bags.x.expand(len(numbers), -1, -1))
            metadata = inputs.metadata[fold].index_select(0, batch.patients).expand(len(numbers), -1, -1)
            outputs = functional_call(model, state, (bags, metadata))
            logits[members[:, None], batch.patients] = outputs.total
    return logits
