"""`FittedHead`: a trained head with all that turns patients into its inputs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.model.head import MILModel
from mil_toolkit.model.poolings import Instances
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection

_BAGS_AT_ONCE = 32


class Applied(NamedTuple):
    """logits: (K, B) by member and patient; attention: (N,) mean over members, or None without images."""

    logits: np.ndarray
    attention: np.ndarray | None


@dataclass(frozen=True)
class FittedHead:
    """K members that were fitted on the same patients, with the projection and encoder of those patients."""

    model: MILModel
    projection: Projection | None
    encoder: MetadataEncoder

    @torch.inference_mode()
    def apply(self, patients: Patients) -> Applied:
        """Logits of B patients by K members, and what each image weighed; labels are not looked at."""
        metadata = torch.tensor(self.encoder.encode(patients.metadata).to_numpy(np.float32))
        logits, attention = [], []
        for places in torch.arange(len(patients)).split(_BAGS_AT_ONCE):
            bags = self._instances(patients, places)
            logits.append(self.model(bags, metadata[places].expand(self.members, -1, -1)).total)
            if bags is not None and self.model.pooling is not None:
                attention.append(self.model.pooling.attention(bags).mean(0))
        return Applied(
            torch.cat(logits, 1).double().numpy(), torch.cat(attention).numpy() if attention else None
        )

    @property
    def members(self) -> int:
        """K."""
        return len(next(self.model.parameters()))

    def _instances(self, patients: Patients, places: Tensor) -> Instances | None:
        if self.projection is None:
            return None
        assert patients.bags is not None
        embeddings = patients.bags.instances[patients.bags.rows(places)]
        return Instances.of(self.projection(embeddings)[None], patients.bags.sizes[places], self.members)
