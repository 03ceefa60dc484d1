# Floor 2.5: the one loop that trains heads: many members in lockstep over the same mini-batches.
"""Training of K heads at once; see `train`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from mil_toolkit.hparams import HeadConfig
from mil_toolkit.inputs import Batch, Inputs
from mil_toolkit.members import draw, dropout_of, generators
from mil_toolkit.model import Logits, MetadataDirect, MILModel


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


def patient_weights(inputs: Inputs, config: HeadConfig) -> Tensor:
    """(F, B) the weight of each patient in each fold's loss: 0 held out, else 1 or its class's weight.

    Class weights are n / (2 n_class) among the fold's training patients, so that their mean is one.
    """
    trains_on = inputs.trains_on.float().to(inputs.device)
    if not config.class_weights:
        return trains_on
    labels = torch.from_numpy(inputs.patients.labels).to(inputs.device)
    weights = torch.zeros_like(trains_on)
    for label in (0, 1):
        of_class = trains_on * (labels == label)
        weights += (
            of_class * trains_on.sum(1, keepdim=True) / (2 * of_class.sum(1, keepdim=True)).clamp(min=1)
        )
    return weights


def member_losses(logits: Logits, labels: Tensor, weights: Tensor, config: HeadConfig) -> Tensor:
    """Each member's mean weighted cross-entropy over its own training patients: (K,).

    Shapes: logits (K, b), labels (b,), weights (K, b)
    Under late fusion each branch's own cross-entropy is added, times `config.auxiliary`.
    """
    sign = 1 - 2 * labels
    losses = functional.softplus(logits.total * sign)  # (K, b)
    for branch in (logits.image, logits.metadata):
        if branch is not None:
            losses = losses + config.auxiliary * functional.softplus(branch * sign)
    return (losses * weights).sum(1) / (weights > 0).sum(1).clamp(min=1)


def drop_instances(sizes: Sequence[int], rate: float, random: Sequence[torch.Generator]) -> Tensor:
    """Which instances of bags of these sizes stay, (K, n) bool, packed as they are.

    Each is left out with probability `rate`, but one of each bag, drawn at random, is always in.
    """
    kept = draw(random, sum(sizes)) >= rate
    of_bags = torch.tensor(sizes, dtype=torch.int64)
    of_bags, ends = (each.to(kept.device, non_blocking=True) for each in (of_bags, of_bags.cumsum(0)))
    spared = (draw(random, len(sizes)) * of_bags).long() + ends - of_bags  # (K, B)
    return kept.scatter(1, spared, True)


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


class Optimizer:
    """SGD with momentum, Adam or AdamW: torch's fused updates, with its default constants, of one tensor a member.

    A member without training patients in a mini-batch keeps its weights, its moments and its step count.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, model: nn.Module, config: HeadConfig):
        self.config = config
        self.parameters = list(model.parameters())
        self.values = flatten(self.parameters)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = self.values.new_zeros(len(self.values))

    def step(self, loss: Tensor, rate: float, active: Sequence[bool]) -> None:
        """Move the members that are `active`, K truths, against the gradient of `loss`, the sum over members."""
        self.move(torch.autograd.grad(loss, self.parameters), rate, active)

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor], rate: float, active: Sequence[bool]) -> None:
        """Move the members that are `active`, K truths, against these gradients of the parameters."""
        gradient = torch.cat([each.flatten(1) for each in gradients], 1)  # (K, P)
        state = (self.values, gradient, self.first, self.second, self.steps)
        moving = [list(compress(each.unbind(), active)) for each in state]
        update = self._sgd if self.config.optimizer == "sgd" else self._adam
        update(*moving, lr=rate, weight_decay=self.config.weight_decay, maximize=False, fused=True)

    def _sgd(self, values: list[Tensor], *state: list[Tensor], **about: Any) -> None:
        gradients, first, _, _ = state
        sgd(values, gradients, [*first], momentum=self.config.momentum, dampening=0, nesterov=False, **about)

    def _adam(self, values: list[Tensor], *state: list[Tensor], **about: Any) -> None:
        gradients, first, second, steps = state
        beta, gamma = self.BETAS
        decoupled = self.config.optimizer == "adamw"
        about |= {"beta1": beta, "beta2": gamma, "eps": self.EPSILON, "amsgrad": False}
        adam(values, gradients, first, second, [], steps, decoupled_weight_decay=decoupled, **about)


def flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Move parameters (K, ...) into one tensor (K, P), of which they become views.

    An optimizer then needs a handful of operations a step.
    """
    values = torch.cat([each.detach().flatten(1) for each in parameters], 1)
    for each, value in zip(
        parameters, values.split([each[0].numel() for each in parameters], 1), strict=True
    ):
        each.data = value.view(each.shape)
    return values
