# Floor 2.5: the one loop that trains heads: many members in lockstep over the same mini-batches.
"""Training of K heads at once; see `train`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mil_toolkit.hparams import HeadConfig
from mil_toolkit.inputs import Inputs
from mil_toolkit.members import draw, dropout_of, generators
from mil_toolkit.model import Logits, MetadataDirect, MILModel
from mil_toolkit.poolings import Instances


@dataclass(frozen=True)
class Member:
    """One model of a population: the fold whose training patients it learns from, and its seed."""

    fold: int
    seed: int


def train(
    inputs: Inputs, config: HeadConfig, members: Sequence[Member], order_seed: int
) -> Iterator[MILModel]:
    """Train K members in lockstep; yields the model after each of `config.epochs` epochs.

    All members walk through the same mini-batches, which `order_seed` shuffles. A member's loss in a
    mini-batch is the mean over its own training patients in it; it does not move where there are none.
    The caller stops the training by not asking for the next epoch.
    """
    random = generators([member.seed for member in members], inputs.device)
    folds = [member.fold for member in members]
    metadata = inputs.metadata[folds]  # (K, B, M)
    model = MILModel(config, inputs.embedding_width(config), metadata.shape[-1], random).to(inputs.device)
    if config.logistic_start and isinstance(model.branch, MetadataDirect):
        model.start_at(inputs.logistic(config.class_weights)[folds])
    weights = patient_weights(inputs, config)[folds]  # (K, B)
    labels = torch.from_numpy(inputs.patients.labels).float().to(inputs.device)
    optimizer = Optimizer(model, config)
    order = torch.Generator().manual_seed(order_seed)
    dropout = dropout_of(random)
    for epoch in range(config.epochs):
        rate = config.learning_rate * config.gamma**epoch
        for batch in torch.randperm(len(inputs.patients), generator=order).split(config.batch_size):
            bags = inputs.instances(config, batch, folds)
            bags = drop_instances(bags, config.instance_dropout, random)
            logits = model(bags, metadata[:, batch], dropout)
            loss = member_losses(logits, labels[batch], weights[:, batch], config).sum()
            optimizer.step(loss, rate, (weights[:, batch] > 0).any(1))
        yield model


def patient_weights(inputs: Inputs, config: HeadConfig) -> Tensor:
    """(F, B) the weight of each patient in each fold's loss: 0 held out, else 1 or its class's weight.

    Class weights are n / (2 n_class) among the fold's training patients, so that their mean is one.
    """
    trains_on = inputs.trains_on.float()
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
    losses = _cross_entropy(logits.total, labels)
    for branch in (logits.image, logits.metadata):
        if branch is not None:
            losses = losses + config.auxiliary * _cross_entropy(branch, labels)
    return (losses * weights).sum(1) / (weights > 0).sum(1).clamp(min=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none")


def drop_instances(
    bags: Instances | None, rate: float, random: Sequence[torch.Generator]
) -> Instances | None:
    """Leave each instance out with probability `rate`, but one of each bag, drawn at random, always in."""
    if bags is None or rate == 0:
        return bags
    kept = draw(random, bags.x.shape[1]) >= rate  # (K, n)
    sizes = bags.sizes.to(bags.x.device, non_blocking=True)
    spared = (draw(random, len(sizes)) * sizes).long() + sizes.cumsum(0) - sizes  # (K, B)
    return replace(bags, kept=kept.scatter(1, spared, True))


@torch.inference_mode()
def predict(model: MILModel, inputs: Inputs, folds: Sequence[int]) -> Tensor:
    """Logits of every patient by every member: (K, B) on the CPU; `folds` are the members' own."""
    config = model.config
    metadata = inputs.metadata[list(folds)]
    parts = [
        model(inputs.instances(config, bags, folds), metadata[:, bags]).total
        for bags in torch.arange(len(inputs.patients)).split(config.batch_size)
    ]
    return torch.cat(parts, 1).float().cpu()


class Optimizer:
    """SGD with momentum, Adam or AdamW over all parameters as one tensor (K, P).

    The update is that of torch.optim with its default constants (a test holds them equal); here a member without
    training patients in a mini-batch keeps its weights, its moments and its step count.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, model: nn.Module, config: HeadConfig):
        self.config = config
        self.parameters = list(model.parameters())
        self.values = flatten(self.parameters)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = self.values.new_zeros(len(self.values), 1)

    def step(self, loss: Tensor, rate: float, active: Tensor) -> None:
        """Move the members that are `active` (K,) bool against the gradient of `loss`, the sum over members."""
        self.move(torch.autograd.grad(loss, self.parameters), rate, active)

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor], rate: float, active: Tensor) -> None:
        """Move the members that are `active` (K,) bool against these gradients of the parameters."""
        gradient = torch.cat([each.flatten(1) for each in gradients], 1)  # (K, P)
        moving = active.float()[:, None]  # (K, 1), as all that follows
        rates = rate * moving
        if self.config.optimizer == "adamw":
            self.values.mul_(1 - rates * self.config.weight_decay)
        elif self.config.weight_decay:
            gradient.add_(self.values, alpha=self.config.weight_decay)
        if self.config.optimizer == "sgd":
            self._sgd(gradient, rates, moving)
        else:
            self._adam(gradient, rates, moving)

    def _sgd(self, gradient: Tensor, rates: Tensor, moving: Tensor) -> None:
        self.first.mul_(1 - (1 - self.config.momentum) * moving).addcmul_(gradient, moving)
        self.values.addcmul_(rates, self.first, value=-1)

    def _adam(self, gradient: Tensor, rates: Tensor, moving: Tensor) -> None:
        beta, gamma = self.BETAS
        self.steps += moving
        self.first.lerp_(gradient, (1 - beta) * moving)
        self.second.lerp_(gradient.square_(), (1 - gamma) * moving)
        steps = self.steps.clamp(min=1)  # a member that has not moved yet has moments of zero
        root = (1 - gamma**steps).sqrt()
        spread = self.second.sqrt().add_(root * self.EPSILON)
        self.values.addcdiv_(self.first * (rates * root / (1 - beta**steps)), spread, value=-1)


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
