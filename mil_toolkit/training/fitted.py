"""`FittedHead`: trained members, with the projection and the encoder of their inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.config.head import BY_GROUP
from mil_toolkit.features.bags import PART, parts_of
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection
from mil_toolkit.training.seen import Seen

_BAGS_PER_BATCH = 32
_INSTANCES_PER_BATCH = 2**18  # unless a single bag has more


class HeadOutput(NamedTuple):
    """Output of a fitted head for B patients with N images.

    logits: (K, B), by member and patient, or (K, B, C) if the head has several outputs
    attention: (N,) attention of each image within its bag, averaged over members, or (N, C) if each class has
        its own; None without images, and where it is not wanted
    """

    logits: np.ndarray
    attention: np.ndarray | None


@dataclass(frozen=True)
class FittedHead:
    """K members fitted on the same patients, with the projection and the encoder of these patients."""

    model: MILModel
    projection: Projection | None
    encoder: MetadataEncoder

    @torch.inference_mode()
    def apply(self, patients: Patients, attention: bool = True) -> HeadOutput:
        """Compute logits and, where it is wanted, attention for any patients; labels are not used."""
        metadata = self._metadata(patients)
        # Small results of each batch, kept between its large ones, would keep these from being reused.
        several = (self.model.outputs,) if self.model.outputs > 1 else ()
        logits, weights = np.empty((self.member_count, len(patients), *several)), None
        if attention and self.projection is not None and self.model.pooling is not None:
            assert patients.bags is not None
            heads = self.model.attention_heads
            shape = [int(patients.bags.offsets[-1]), *([heads] if heads > 1 else [])]
            weights = np.empty(shape, dtype=np.float32)
        first = 0
        for places in _batches(patients):
            inputs = metadata[places].expand(self.member_count, -1, -1)
            logits[:, places.numpy()], shares = self._apply_batch(
                patients, places, inputs, weights is not None
            )
            if weights is not None and shares is not None:
                weights[first : first + len(shares)] = shares
                first += len(shares)
        return HeadOutput(logits, weights)

    def _apply_batch(
        self, patients: Patients, places: Tensor, metadata: Tensor, attention: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return logits and, where it is wanted, attention of the patients at these positions (b,).

        metadata: encoded, (K, b, M)
        """
        bags = self._instances(patients, places)
        logits = self.model(bags, metadata).total.double().numpy()
        if bags is None or not attention:
            return logits, None
        return logits, self.model.attention(bags).mean(0).numpy()

    def inputs(self, patients: Patients) -> tuple[Instances | None, Tensor]:
        """Return what the members see of all patients together: images, None without, and metadata.

        Shapes: instances of width D of the projection; metadata (K, B, M)
        """
        metadata = self._metadata(patients).expand(self.member_count, -1, -1)
        return self._instances(patients, torch.arange(len(patients))), metadata

    def _metadata(self, patients: Patients) -> Tensor:
        """Return the encoded metadata, (B, M)."""
        return torch.tensor(self.encoder.encode(patients.metadata).to_numpy(np.float32))

    @property
    def by_group(self) -> bool:
        """Whether embeddings are standardised within groups of patients; see `Patients.seen_views`."""
        return self.projection is not None and self.model.config.standardise == BY_GROUP

    @property
    def member_count(self) -> int:
        """The number of members, K."""
        return len(next(self.model.parameters()))

    def _instances(self, patients: Patients, places: Tensor) -> Instances | None:
        """Return the projected embeddings of the patients at these positions, or None without images."""
        if self.projection is None:
            return None
        assert patients.bags is not None
        config = self.model.config
        views = [Seen.by(config, bags) for bags in patients.seen_views(config).values()]
        projected = [
            self.projection(torch.cat([view.read_for_prediction(rows) for view in views], -1))
            for rows in patients.bags.rows(places).split(PART)
        ]
        return Instances.of(torch.cat(projected)[None], patients.bags.sizes[places], self.member_count)


def _batches(patients: Patients) -> Iterator[Tensor]:
    """Yield the positions of all patients, in order, in parts that fit in memory together."""
    for places in torch.arange(len(patients)).split(_BAGS_PER_BATCH):
        if patients.bags is None:
            yield places
        else:
            parts = parts_of(patients.bags.sizes[places], _INSTANCES_PER_BATCH)
            yield from (places[part] for part in parts)
