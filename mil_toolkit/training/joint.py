"""`JointPopulation`: the members of several trials of equal shape, trained in one population.

A card takes about as long to begin an operation for the members of one trial as for those of several. Each
trial keeps its own random numbers, order of patients, rates and optimizer state, and so its own result.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.model.instances import WHOLE
from mil_toolkit.model.layers import draw
from mil_toolkit.training.graphs import Compute, Graphs
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.joint_step import JointInstances, Step, scaled_dropout
from mil_toolkit.training.loop import Member, Population, predict_held_out
from mil_toolkit.training.losses import drop_instances, member_losses
from mil_toolkit.training.optimizer import flatten
from mil_toolkit.training.packing import Packing, bucket, moved, padded

MEMBERWISE = (
    "zero_start",
    "metadata_dropout",
    "logistic_start",
    "auxiliary",
    "embedding_dropout",
    "instance_dropout",
    "class_weights",
    "momentum",
    "learning_rate",
    "gamma",
    "weight_decay",
    "epochs",
    "patience",
)
"""The fields of HeadConfig that may differ between the trials of one population."""
POOLINGS_TOGETHER = ("attention", "gated-attention", "mean", "noisy-and")
"""The poolings of several trials at once: those whose operations do not depend on the sizes of the bags,
which differ between trials."""


def shape_of(config: HeadConfig) -> dict[str, Value]:
    """Return the fields in which the trials of one population agree."""
    return {
        field.name: getattr(config, field.name) for field in fields(config) if field.name not in MEMBERWISE
    }


def joins(inputs: Inputs, config: HeadConfig) -> bool:
    """Return whether trials of this shape can be trained in one population.

    They cannot with several outputs or targets, with layers on the instances, with the other poolings,
    without projection (members then share their embeddings in training), with embeddings that are read from a
    file, and with so many instances that a mini-batch is divided.
    """
    bags = inputs.patients.bags
    if inputs.outcome.outputs > 1 or inputs.targets.ndim > 1:
        return False
    if not config.image_branch or bags is None:
        return True
    largest = bucket(int(bags.sizes.sort(descending=True).values[: config.batch_size].sum()) + 1)
    return (
        config.pooling in POOLINGS_TOGETHER
        and config.instance_layers == 0
        and config.components > 0
        and not any(view.reads_from_file for view in inputs.chosen(config))
        and largest * (config.batch_size + 1) <= WHOLE
    )


class JointTrial:
    """One trial of a joint population: its members and the order in which it sees the patients."""

    def __init__(self, inputs: Inputs, config: HeadConfig, members: Sequence[Member], order_seed: int):
        self.config, self.population = config, Population(inputs, config, members)
        self._shuffle = torch.Generator().manual_seed(order_seed)

    def order(self) -> Tensor:
        """Return the order of the patients in the next epoch, (B,)."""
        return torch.randperm(len(self.population.inputs.patients), generator=self._shuffle)


class JointPopulation:
    """Trials of equal shape with F members each, K in all, one for each fold.

    values: parameters and buffers of all members by name, (K, ...)
    """

    def __init__(self, inputs: Inputs, trials: Sequence[JointTrial]):
        self.inputs, self.trials, self.epoch = inputs, list(trials), 0
        self._join()

    def epochs(self, count: int) -> Iterator[Tensor]:
        """Yield the logits (K, B) of each of `count` epochs; see `Curves`."""
        trains_on = self.inputs.trains_on[self.folds].to(self.inputs.device)
        for _ in range(count):
            yield torch.where(trains_on, self.run_epoch(), self.held_out())

    def _join(self) -> None:
        populations = [trial.population for trial in self.trials]
        self.model, self.config = populations[0].model, self.trials[0].config
        self.folds = [fold for population in populations for fold in population.folds]
        self.values = joined([population.model for population in populations])
        self._parameters = [value for value in self.values.values() if isinstance(value, nn.Parameter)]
        rows = flatten(self._parameters).split(self.members)
        for population, values in zip(populations, rows, strict=True):
            population.optimizer.share(values)
        shares = [[trial.config.auxiliary] for trial in self.trials for _ in range(self.members)]
        self._auxiliary = torch.tensor(shares, device=self.inputs.device)  # (K, 1)
        self._graphs, self._loss = Graphs(self.inputs.device), populations[0].loss
        self._weights = torch.cat([population.weights for population in populations])
        self._metadata = torch.cat([population.metadata for population in populations])

    @property
    def members(self) -> int:
        """Number of members of each trial."""
        return len(self.inputs.trains)

    def keep(self, trials: Sequence[JointTrial]) -> None:
        """Train only these trials from now on."""
        if len(trials) < len(self.trials):
            self.trials = list(trials)
            self._join()

    def run_epoch(self) -> Tensor:
        """Train on all patients once; return the logits of the training pass, (K, B)."""
        orders = torch.stack([trial.order() for trial in self.trials])  # (T, B)
        (place,) = moved([orders], self.inputs.device)
        place = self._by_member(place)
        steps = self._prepare(orders, place)
        self.epoch += 1
        logits = torch.cat([self._graphs.run(step.shape, self._of(step), step.tensors) for step in steps], 1)
        return torch.empty_like(logits).scatter_(1, place, logits)

    def held_out(self) -> Tensor:
        """Return logits (K, B) of the patients that each member's fold holds out; others are 0."""

        def predict(_: Sequence[Tensor]) -> Tensor:
            return predict_held_out(self.model, self.inputs, self.folds, self.values)

        return self._graphs.run("held out", predict, [])

    def _of(self, step: Step) -> Compute:
        """Return the update as a function of the step's tensors."""
        return lambda tensors: self._update(step.with_tensors(tensors))

    def _by_member(self, values: Tensor) -> Tensor:
        """Repeat what each trial has, (T, ...), for each of its members, (K, ...)."""
        return values.repeat_interleave(self.members, 0)

    def _prepare(self, orders: Tensor, place: Tensor) -> list[Step]:
        """Return the steps of an epoch; all random draws and all copies to the device happen here.

        orders: (T, B) on the CPU; place: the same for each member, (K, B) on the device
        """
        size = self.config.batch_size
        packings = [Packing.of(self.inputs, parts) for parts in orders.split(size, 1)]
        kept, drawn = self._draw_kept(packings), self._draw_orientations(packings)
        columns = self._metadata.shape[-1]
        metadata = self._metadata.gather(1, place[..., None].expand(-1, -1, columns)).split(size, 1)
        labels = self.trials[0].population.targets[place].split(size, 1)
        weights = self._weights.gather(1, place).split(size, 1)
        active = [self._active(parts) for parts in orders.split(size, 1)]
        indices = moved([*chain.from_iterable((one.rows, one.bag) for one in packings)], self.inputs.device)
        rates = [trial.config.learning_rate * trial.config.gamma**self.epoch for trial in self.trials]
        rate = moved([torch.tensor(rates)], self.inputs.device) * len(packings)
        fields = (indices[::2], indices[1::2], kept, drawn, metadata, labels, weights, rate)
        return [*map(Step, *fields, self._draw_scales(packings), active)]

    def _active(self, patients: Tensor) -> list[list[bool]]:
        """Return which members of each trial train on at least one of its patients (T, b)."""
        return [self.inputs.trains_on[:, one].any(1).tolist() for one in patients]

    def _draw_kept(self, packings: Sequence[Packing]) -> Sequence[Tensor | None]:
        """Return the instances that dropout keeps, (K, n) for each mini-batch; None keeps all."""
        rates = [trial.config.instance_dropout for trial in self.trials]
        if self.model.pooling is None or not any(rates):
            return [None] * len(packings)
        by_trial = []
        for number, (trial, rate) in enumerate(zip(self.trials, rates, strict=True)):
            sizes = [one.sizes[number] for one in packings]
            lengths, generators = [*map(sum, sizes)], trial.population.generators
            kept = torch.ones(self.members, sum(lengths), dtype=torch.bool)
            if rate:
                kept = drop_instances([*chain.from_iterable(sizes)], rate, generators)
            by_trial.append(padded(kept.split(lengths, 1), packings, True))
        return moved([torch.cat(parts) for parts in zip(*by_trial, strict=True)], self.inputs.device)

    def _draw_orientations(self, packings: Sequence[Packing]) -> Sequence[Tensor | None]:
        """Return a number for the orientation of each image, (K, n) for each mini-batch; None if only one."""
        if not self.inputs.draws_orientations(self.config):
            return [None] * len(packings)
        by_trial = []
        for number, trial in enumerate(self.trials):
            lengths = [sum(one.sizes[number]) for one in packings]
            drawn = draw(trial.population.generators, sum(lengths))
            by_trial.append(padded(drawn.split(lengths, 1), packings, 0.0))
        return moved([torch.cat(parts) for parts in zip(*by_trial, strict=True)], self.inputs.device)

    def _draw_scales(self, packings: Sequence[Packing]) -> list[list[Tensor | None]]:
        """Return the factors of every dropout in each mini-batch."""
        calls = [trial.population.model.bag_dropouts for trial in self.trials]
        drops = [any(rate for _, rate in of_trials) for of_trials in zip(*calls, strict=True)]
        scales = [
            torch.cat([self._scale(trial, one.patients, *call) for trial, call in of_trials])
            for one in packings
            for of_trials, dropped in zip(self._calls(calls), drops, strict=True)
            if dropped
        ]
        left = iter(moved(scales, self.inputs.device))
        return [[next(left) if dropped else None for dropped in drops] for _ in packings]

    def _calls(
        self, calls: Sequence[Sequence[tuple[int, float]]]
    ) -> Iterable[list[tuple[JointTrial, tuple[int, float]]]]:
        """Yield each dropout of a forward pass, as the trials with their columns and rates."""
        return ([*zip(self.trials, of_trials, strict=True)] for of_trials in zip(*calls, strict=True))

    def _scale(self, trial: JointTrial, patients: int, width: int, rate: float) -> Tensor:
        if not rate:
            return torch.ones(self.members, patients, width)
        return (draw(trial.population.generators, patients, width) >= rate) / (1 - rate)

    def _update(self, step: Step) -> Tensor:
        """Update the members on one mini-batch, and return their logits (K, b) from before the update."""
        arguments = self._instances(step), step.metadata, scaled_dropout(step.scales)
        logits = functional_call(self.model, dict(self.values), arguments)
        losses = member_losses(logits, step.labels, step.weights, self.config, self._loss, self._auxiliary)
        gradients = torch.autograd.grad(losses.sum(), self._parameters)
        gradient = torch.cat([part.flatten(1) for part in gradients], 1)  # (K, P)
        parts = gradient.split(self.members)
        for trial, part, rate, active in zip(self.trials, parts, step.rates, step.active, strict=True):
            trial.population.optimizer.update(part, rate, active)
        return logits.total.detach()

    def _instances(self, step: Step) -> JointInstances | None:
        if self.model.pooling is None:
            return None
        rows = self._by_member(step.rows)
        x = self.inputs.member_rows(self.config, rows, self.folds, step.drawn)
        bags = step.metadata.shape[1] + 1  # with that of the padding rows
        return JointInstances(x, step.bag, [0] * bags, len(self.folds), kept=step.kept)


def joined(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return the parameters and buffers of models of equal shape by name, their members side by side."""
    parameters, buffers = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)
    for model in models:
        for name, parameter in model.named_parameters():
            parameters[name].append(parameter.detach())
        for name, buffer in model.named_buffers():
            buffers[name].append(buffer)
    values: dict[str, Tensor] = {name: nn.Parameter(torch.cat(each)) for name, each in parameters.items()}
    return values | {name: torch.cat(each) for name, each in buffers.items()}
