"""`Finetuner`: training of a backbone together with its heads, resumable to the bit."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.batches import in_whole_batch
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.backbones.parts import last_stage
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.core.devices import DTYPES, pick_precision
from mil_toolkit.core.errors import Diverged
from mil_toolkit.core.seeds import derive_seed, derive_seeds
from mil_toolkit.features.image_files import ImageFile, ImageFiles
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import dropout_of, generators
from mil_toolkit.training.augmentation import augment, turn
from mil_toolkit.training.backpropagation import Halves, backpropagate
from mil_toolkit.training.checkpoints import CheckpointState
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.losses import LOSSES, drop_instances, member_losses, patient_weights
from mil_toolkit.training.optimizer import Optimizer
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.spill import Spill, shelves_for

IMAGES_AT_ONCE = 4096  # images of whole bags in one pass of the head


@dataclass(frozen=True)
class FinetunerOptions:
    """How a `Finetuner` trains.

    seed: path that all random numbers derive from, together with epoch and step
    folder: where temporary files are written
    """

    config: FinetuneConfig
    seed: Sequence[int]
    device: torch.device
    folder: Path


class Finetuner:
    """Training of one backbone with K heads on the same patients.

    All heads share the backbone, which follows the gradient of the sum of their losses; each head follows the
    gradient of its own loss. Mini-batches, dropout, class weights and the heads' optimizer are those of
    `training.loop.train`, and the heads' learning rate continues its schedule. The projection between
    backbone and heads stays as it was fitted.

    backbone, head: the starting point; neither is modified
    patients: the patients to train on, with the embeddings that the image files were selected by
    epoch, step: the next step to run
    """

    def __init__(
        self,
        backbone: Backbone,
        head: FittedHead,
        patients: Patients,
        files: ImageFiles,
        options: FinetunerOptions,
    ):
        assert patients.bags is not None and head.projection is not None
        self.backbone, self.patients, self.files, self.options = backbone, patients, files, options
        device, self.dtype = options.device, DTYPES[pick_precision("auto", options.device)]
        self.part = options.config.unfreeze or last_stage(backbone.network)
        self.halves = Halves(backbone, self.part, device, self.dtype, options.config.chunk)
        self.start, self.model = head, copy.deepcopy(head.model).to(device)
        self.projection = head.projection.to(device)
        inputs = Inputs(patients, [np.arange(len(patients))], device)
        self.metadata = inputs.metadata.expand(head.member_count, -1, -1)  # (K, B, M)
        weights = patient_weights(inputs, self.model.config)
        self.weights = weights.expand(head.member_count, -1)  # (K, B)
        self.targets, self.loss = inputs.targets, LOSSES[inputs.outcome.kind]
        self.head_optimizer = Optimizer(self.model, self.model.config)
        self.optimizer = torch.optim.AdamW(self.halves.parameters.values(), lr=options.config.backbone_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.epoch = self.step = 0

    def advance(self) -> int:
        """Train on the next mini-batch of bags, and return the number of its images.

        The bags are processed in groups of about IMAGES_AT_ONCE images, whose gradients are summed.
        """
        assert self.patients.bags is not None
        batches = self._batches()
        batch = batches[self.step]
        sizes = self.patients.bags.sizes[batch]
        *seeds, seed = derive_seeds(self.start.member_count + 1, *self.options.seed, self.epoch, self.step)
        members = generators(seeds)
        augmentation = torch.Generator().manual_seed(seed)
        block = (sizes.cumsum(0) - 1) // IMAGES_AT_ONCE
        for group in batch.split(block.unique_consecutive(return_counts=True)[1].tolist()):
            self._add_gradients(group, len(group) / len(batch), members, augmentation)
        self._move()
        last = self.step + 1 == len(batches)
        self.epoch, self.step = (self.epoch + 1, 0) if last else (self.epoch, self.step + 1)
        return int(sizes.sum())

    def _batches(self) -> list[Tensor]:
        """Return the mini-batches of the current epoch, as positions of patients."""
        order = torch.Generator().manual_seed(derive_seed(*self.options.seed, self.epoch))
        return list(torch.randperm(len(self.patients), generator=order).split(self.model.config.batch_size))

    def _add_gradients(
        self, group: Tensor, share: float, members: Sequence[torch.Generator], augmentation: torch.Generator
    ) -> None:
        """Add the gradients of a group of bags.

        share: of the group in the mini-batch, by number of bags; members: random number generators of the K
            heads
        """
        config = self.options.config

        def loss_of(embeddings: Tensor) -> Tensor:
            return self._loss(embeddings, group, members) * share

        files = self.files.of([self.patients.ids[place] for place in group.tolist()])
        chunks = self.files.chunks(files, config.chunk, self.options.device)
        augmented = (augment(pixels, config.jitter, augmentation) for pixels in chunks)
        with tempfile.TemporaryFile(dir=self.options.folder) as file:
            spill = Spill(file, shelves_for(self.options.device))
            backpropagate(augmented, self.halves, loss_of, spill, self.scaler.scale)

    def _loss(self, embeddings: Tensor, group: Tensor, members: Sequence[torch.Generator]) -> Tensor:
        """Return the sum () of the heads' losses on a group of bags with these embeddings (N, width)."""
        assert self.patients.bags is not None
        config, sizes = self.model.config, self.patients.bags.sizes[group]
        kept = drop_instances(sizes.tolist(), config.instance_dropout, members).to(embeddings.device)
        bags = Instances.of(self.projection(embeddings)[None], sizes, len(members))
        places = group.to(embeddings.device)
        logits = self.model(replace(bags, kept=kept), self.metadata[:, places], dropout_of(members))
        weights = self.weights[:, places]
        return member_losses(logits, self.targets[places], weights, config, self.loss).sum()

    def _move(self) -> None:
        """Update heads and backbone with the accumulated gradients, and clear these."""
        config = self.model.config
        parameters = self.head_optimizer.parameters
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        rate = config.learning_rate * config.gamma ** (config.epochs + self.epoch)
        self.head_optimizer.move(gradients, rate, [True] * len(self.weights))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.model.zero_grad()
        self.optimizer.zero_grad()

    @property
    def head(self) -> FittedHead:
        """A copy of the heads in their current state, on the CPU."""
        return replace(self.start, model=copy.deepcopy(self.model).cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of the whole backbone in their current state, on the CPU."""
        return {name: value.detach().cpu() for name, value in self.halves.network.state_dict().items()}

    def predict(self, patients: Patients) -> np.ndarray:
        """Return the logits (K, b) that `mil-predict` would compute; raises Diverged if one is not finite."""
        assert patients.bags is not None
        bags = patients.bags.with_embeddings(self._embed(self.files.of(patients.ids)))
        logits = self.head.apply(replace(patients, bags=bags)).logits
        if not np.isfinite(logits).all():
            raise Diverged(f"fine-tuning diverged in epoch {self.epoch}. Use a smaller --backbone-rate.")
        return logits

    def _embed(self, files: Sequence[ImageFile]) -> Tensor:
        """Return what prediction sees of the images, (n, D): the mean over their orientations, if it does."""
        backbone, size = replace(self.backbone, network=self.halves.network), self.options.config.chunk
        embedder = Embedder(backbone, self.options.device, self.dtype)
        kinds = iter([self.files.symmetries(file) if self.model.config.augment else (0,) for file in files])
        means = []
        for pixels in self.files.chunks(files, size, self.options.device):
            orientations = zip(*islice(kinds, len(pixels)), strict=True)
            turned = (torch.stack([*map(turn, pixels, kind)]) for kind in orientations)
            embedded = [in_whole_batch(embedder, images, size).cpu().float() for images in turned]
            means.append(torch.stack(embedded).mean(0))
        return torch.cat(means)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint: trained parameters and the states of both optimizers."""
        tensors: dict[str, Tensor] = {
            f"backbone.{name}": parameter for name, parameter in self.halves.parameters.items()
        }
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adamw.{number}.{name}": moment for name, moment in moments.items()}
        tensors |= self._head_tensors()
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def _head_tensors(self) -> dict[str, Tensor]:
        """Return the parameters of the heads and the state of their optimizer, not copied."""
        heads = self.head_optimizer
        return {
            "heads.values": heads.values,
            "heads.first": heads.first,
            "heads.second": heads.second,
            "heads.steps": heads.steps,
        }

    def state(self) -> CheckpointState:
        """Return the values of a checkpoint that are not tensors.

        Seed, epoch and step determine all random numbers of the steps to come.
        """
        return {
            "seed": list(self.options.seed),
            "epoch": self.epoch,
            "step": self.step,
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], state: CheckpointState) -> None:
        """Continue from a checkpoint: `tensors` and `state` of a finetuner with the same arguments."""
        for name, parameter in self.halves.parameters.items():
            parameter.copy_(tensors[f"backbone.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.halves.parameters.values())
        for name, tensor in tensors.items():
            if name.startswith("adamw."):
                _, number, kind = name.split(".")
                moments.setdefault(int(number), {})[kind] = _like(parameters[int(number)], tensor)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for name, tensor in self._head_tensors().items():
            tensor.copy_(tensors[name])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]


def _like(parameter: Tensor, moment: Tensor) -> Tensor:
    """Return a moment of a parameter in the parameter's memory format, as the optimizer made it.

    In another one, kernels of CUDA add in another order. The number of steps () has no format.
    """
    if moment.shape != parameter.shape:
        return moment.clone()
    return torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
