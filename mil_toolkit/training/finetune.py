"""`Finetuner`: exact end-to-end steps on bags of any size, which go on to the bit where they were stopped."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.embedder import Embedder, Normaliser, fuse_batch_norm
from mil_toolkit.backbones.parts import ALL, divide, last_stage
from mil_toolkit.config import FinetuneConfig
from mil_toolkit.core.devices import DTYPES, pick_precision
from mil_toolkit.core.errors import Diverged, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.seeds import derive_seeds
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.model.layers import dropout_of, generators
from mil_toolkit.model.poolings import Instances
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.losses import drop_instances, member_losses, patient_weights
from mil_toolkit.training.optimizer import Optimizer
from mil_toolkit.training.patients import Patients

IMAGES_AT_ONCE = 4096  # of whole bags in one pass of the head
SYMMETRIES = 8  # of the square: quarter turns, flipped or not


# The exact gradient of a loss of all images, a chunk of them at a time.


class Spill:
    """Tensors in a file instead of in memory, read in the order in which they were written.

    file: best without a name (`tempfile.TemporaryFile`), so that it is gone however the process ends. It is written and
        read rather than mapped into memory, where its pages would count as the process's own.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._written: list[Tensor] = []  # without content

    def write(self, x: Tensor) -> None:
        """Append a tensor; raises UsageError where the disk is full."""
        dense = torch.empty_like(x, device="cpu").copy_(x)
        try:
            self._file.write(_bytes(dense))
            self._file.flush()
        except OSError as error:
            raise UsageError(
                f"What lies between the passes cannot be kept on disk: {error.strerror}."
            ) from None
        self._written.append(torch.empty_like(dense, device="meta"))

    def read(self) -> Iterable[Tensor]:
        """All that was written, one after the other, to write anew afterwards."""
        self._file.seek(0)
        for like in self._written:
            dense = torch.empty_like(like, device="cpu")
            self._file.readinto(_bytes(dense))  # type: ignore[attr-defined]
            yield dense
        self._written = []
        self._file.seek(0)


def _bytes(dense: Tensor) -> memoryview:
    """The memory of a tensor without gaps, whatever the order of its axes."""
    flat: NDArray[np.uint8] = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
    return flat.data


class Halves:
    """A network made ready to be trained from one of its parts on.

    network: the whole, in float32 on `device`; its trained half's parameters alone require gradients
    frozen: pixels (n, S, S, 3) uint8 -> what the trained half takes; without gradients, in `dtype`
    trained: -> embeddings (n, width) float32, its products in `dtype`

    BatchNorm keeps the running statistics that the network came with: an image's embedding depends on no other image.
    """

    def __init__(self, backbone: Backbone, part: str, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        network = copy.deepcopy(backbone.network).to(device)
        self.network = network.to(memory_format=torch.channels_last).requires_grad_(False)
        before, self._behind = divide(self.network, part)
        self._behind.requires_grad_(True)
        normalise = Normaliser(backbone, device, dtype)
        if part == ALL:
            self.frozen: nn.Module = nn.Identity()  # pixels are the smallest to keep
            self._behind = nn.Sequential(normalise, self._behind)
        else:
            # Folding rounds anew. In float32 that alone would move gradients by more than all the rest.
            self.frozen = nn.Sequential(
                normalise, before if dtype == torch.float32 else fuse_batch_norm(before).to(dtype)
            )

    def trained(self, entering: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            embeddings: Tensor = self._behind(entering.to(self.device))
        return embeddings.float()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, by their names in the network."""
        return {name: each for name, each in self.network.named_parameters() if each.requires_grad}


def backpropagate(
    chunks: Iterable[Tensor],
    halves: Halves,
    loss_of: Callable[[Tensor], Tensor],
    spill: Spill,
    scale: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> float:
    """Add the gradient of a loss of all images' embeddings to every parameter's `grad`; returns the loss.

    chunks: pixels (n, S, S, 3) uint8, as many as there are; loss_of: embeddings (N, width) -> ()
    scale: what the backbone's gradients are multiplied by

    First every chunk is embedded without gradients, then the loss's gradient with respect to the embeddings is taken,
    then each chunk is embedded again with gradients, and that gradient's rows go into it. By the chain rule the result
    is that of backpropagation through all images at once, while the activations of one chunk alone are in memory. What
    enters the trained half is kept on disk, so that the frozen half, like the augmentation, happens once.
    """
    embeddings = []
    with torch.inference_mode():
        for pixels in chunks:
            entering = halves.frozen(pixels)
            spill.write(entering)
            embeddings.append(halves.trained(entering))
    sizes = [len(each) for each in embeddings]
    joined = torch.cat(embeddings).requires_grad_()
    del embeddings
    loss = loss_of(joined)
    loss.backward()
    assert joined.grad is not None
    for entering, gradient in zip(spill.read(), joined.grad.split(sizes), strict=True):
        halves.trained(entering).backward(scale(gradient))
    return loss.item()


def augment(pixels: Tensor, jitter: float, random: torch.Generator) -> Tensor:
    """Each image turned and flipped to one of its eight orientations, its colours at other strengths.

    Shapes: pixels (n, S, S, 3) uint8 -> the same
    jitter: each channel is multiplied by a factor from [1 - jitter, 1 + jitter)
    """
    kinds = torch.randint(SYMMETRIES, (len(pixels),), generator=random).tolist()
    turned = torch.stack([_turned(image, kind) for image, kind in zip(pixels, kinds, strict=True)])
    factors = 1 + jitter * (2 * torch.rand(len(pixels), 1, 1, 3, generator=random) - 1)
    return (turned * factors.to(pixels.device)).round_().clamp_(max=255).to(torch.uint8)


def _turned(image: Tensor, kind: int) -> Tensor:
    turned = image.rot90(kind % 4)
    return turned.flip(0) if kind >= SYMMETRIES // 2 else turned


# Training.


@dataclass(frozen=True)
class Told:
    """What a finetuner is told beside its data.

    seed: everything random derives from it, the epoch and the step
    folder: where what lies between the passes goes
    """

    config: FinetuneConfig
    seed: Sequence[int]
    device: torch.device
    folder: Path


class Finetuner:
    """One backbone and K heads in training on the same patients.

    All heads look at the one backbone, which follows the sum of their losses; each head follows its own alone, as in
    `training.train`: the same mini-batches of bags, dropout, weights of the classes and optimiser, at the rate to which
    its schedule had come. The heads' projection stays as it was, a fixed linear layer before them.

    backbone, head: where training begins; both are left as they are
    patients: to train on, with the embeddings by which the files are known
    """

    def __init__(
        self, backbone: Backbone, head: FittedHead, patients: Patients, files: ImageFiles, told: Told
    ):
        assert patients.bags is not None and head.projection is not None
        self.backbone, self.patients, self.files, self.told = backbone, patients, files, told
        device, self.dtype = told.device, DTYPES[pick_precision("auto", told.device)]
        self.part = told.config.unfreeze or last_stage(backbone.network)
        self.halves = Halves(backbone, self.part, device, self.dtype)
        self.start, self.model = head, copy.deepcopy(head.model).to(device)
        self.projection = head.projection.to(device)
        inputs = Inputs(patients, [np.arange(len(patients))], device)
        self.metadata = inputs.metadata.expand(head.members, -1, -1)  # (K, B, M)
        self.weights = patient_weights(inputs, self.model.config).expand(head.members, -1)  # (K, B)
        self.labels = torch.from_numpy(patients.labels).float().to(device)
        self.head_optimizer = Optimizer(self.model, self.model.config)
        self.optimizer = torch.optim.AdamW(self.halves.parameters.values(), lr=told.config.backbone_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.epoch = self.step = 0  # to come next

    def _batches(self) -> list[Tensor]:
        """The mini-batches of the present epoch: places of patients."""
        order = torch.Generator().manual_seed(derive_seeds(1, *self.told.seed, self.epoch)[0])
        return list(torch.randperm(len(self.patients), generator=order).split(self.model.config.batch_size))

    def advance(self) -> int:
        """One step on the next mini-batch of bags; returns the images in it.

        The gradients of its bags add up; several bags go together where they are small.
        """
        assert self.patients.bags is not None
        batches = self._batches()
        batch = batches[self.step]
        sizes = self.patients.bags.sizes[batch]
        members = self.start.members
        *seeds, seed = derive_seeds(members + 1, *self.told.seed, self.epoch, self.step)
        random, augmentation = generators(seeds, self.told.device), torch.Generator().manual_seed(seed)
        block = (sizes.cumsum(0) - 1) // IMAGES_AT_ONCE
        for group in batch.split(block.unique_consecutive(return_counts=True)[1].tolist()):
            self._add_gradients(group, len(group) / len(batch), random, augmentation)
        self._move()
        last = self.step + 1 == len(batches)
        self.epoch, self.step = (self.epoch + 1, 0) if last else (self.epoch, self.step + 1)
        return int(sizes.sum())

    def _add_gradients(
        self, group: Tensor, share: float, random: Sequence[torch.Generator], augmentation: torch.Generator
    ) -> None:
        """Of the group's share in the mini-batch's loss."""
        assert self.patients.bags is not None
        config, sizes = self.model.config, self.patients.bags.sizes[group]
        told = self.told.config

        def loss_of(embeddings: Tensor) -> Tensor:
            kept = drop_instances(sizes.tolist(), config.instance_dropout, random)
            bags = Instances.of(self.projection(embeddings)[None], sizes, len(random))
            logits = self.model(replace(bags, kept=kept), self.metadata[:, group], dropout_of(random))
            return member_losses(logits, self.labels[group], self.weights[:, group], config).sum() * share

        files = self.files.of([self.patients.ids[place] for place in group.tolist()])
        chunks = self.files.chunks(files, told.chunk, self.told.device)
        augmented = (augment(pixels, told.jitter, augmentation) for pixels in chunks)
        with tempfile.TemporaryFile(dir=self.told.folder) as file:
            backpropagate(augmented, self.halves, loss_of, Spill(file), self.scaler.scale)

    def _move(self) -> None:
        """Move heads and backbone against the gradients that have come together."""
        config = self.model.config
        gradients = [each.grad for each in self.head_optimizer.parameters if each.grad is not None]
        rate = config.learning_rate * config.gamma ** (config.epochs + self.epoch)
        self.head_optimizer.move(gradients, rate, [True] * len(self.weights))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.model.zero_grad()
        self.optimizer.zero_grad()

    @property
    def head(self) -> FittedHead:
        """The heads as they are now."""
        return replace(self.start, model=copy.deepcopy(self.model).cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """The whole backbone as it is now."""
        return {name: each.detach().cpu() for name, each in self.halves.network.state_dict().items()}

    def predict(self, patients: Patients) -> np.ndarray:
        """Logits (K, b) of patients as `mil-predict` would give them; raises Diverged where one is not finite."""
        assert patients.bags is not None
        embedder = Embedder(replace(self.backbone, network=self.halves.network), self.told.device, self.dtype)
        files = self.files.of(patients.ids)
        chunks = self.files.chunks(files, self.told.config.chunk, self.told.device)
        embeddings = torch.cat([embedder(pixels).cpu() for pixels in chunks])
        bags = replace(patients.bags, instances=embeddings)
        logits = self.head.apply(replace(patients, bags=bags)).logits
        if not np.isfinite(logits).all():
            raise Diverged(f"fine-tuning diverged in epoch {self.epoch}. Use a smaller --backbone-rate.")
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """All that `restore` needs beside `state`."""
        kept: dict[str, Tensor] = {f"backbone.{name}": each for name, each in self.halves.parameters.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            kept |= {f"adamw.{number}.{name}": each for name, each in moments.items()}
        heads = self.head_optimizer
        kept |= {"heads.values": heads.values, "heads.first": heads.first}
        kept |= {"heads.second": heads.second, "heads.steps": heads.steps}
        return {name: each.detach().cpu().contiguous() for name, each in kept.items()}

    def state(self) -> dict[str, Any]:
        """What are no tensors. With the seed, epoch and step fix all random numbers to come."""
        return {
            "seed": list(self.told.seed),
            "epoch": self.epoch,
            "step": self.step,
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Be as the finetuner that gave these was."""
        for name, parameter in self.halves.parameters.items():
            parameter.copy_(tensors[f"backbone.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, each in tensors.items():
            if name.startswith("adamw."):
                _, number, kind = name.split(".")
                moments.setdefault(int(number), {})[kind] = each
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        heads = self.head_optimizer
        heads.values.copy_(tensors["heads.values"])
        heads.first.copy_(tensors["heads.first"])
        heads.second.copy_(tensors["heads.second"])
        heads.steps.copy_(tensors["heads.steps"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]


def publish_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Publish tensors with JSON values in one file, so that neither is ever of another moment than the other."""
    publish(path, save(dict(tensors), {"state": json.dumps(state, allow_nan=False)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `publish_tensors` published."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["state"])
