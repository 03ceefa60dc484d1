"""`contributions_of`: what the metadata and the images of one patient each contribute to a prediction."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.core.records import Json
from mil_toolkit.model.head import Logits
from mil_toolkit.training.patients import Patients

LATE, EARLY = "late", "early"


@dataclass(frozen=True)
class Parts:
    """The two summands of each output of a head with late fusion, before calibration, (C,) each."""

    images: list[float]
    metadata: list[float]


@dataclass(frozen=True)
class Contributions:
    """The contributions of the images and of the metadata to a prediction.

    fusion: how the head joins them, `late` or `early`; None if it sees only one of them
    parts: the summands; None where the outputs are not a sum, as after early fusion
    without_images, without_metadata: the values (V,) that are predicted if all images, or all metadata, are
        replaced by the mean of the training patients; None if the head sees only one of them
    """

    fusion: str | None
    parts: Parts | None = None
    without_images: list[float] | None = None
    without_metadata: list[float] | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the JSON object."""
        parts: Json = None
        if self.parts is not None:
            parts = {"images": [*self.parts.images], "metadata": [*self.parts.metadata]}
        without: dict[str, Json] = {
            name: None if values is None else [*values]
            for name, values in (
                ("without_images", self.without_images),
                ("without_metadata", self.without_metadata),
            )
        }
        return {"fusion": self.fusion, "parts": parts, **without}


@torch.inference_mode()
def contributions_of(bundle: ModelBundle, patients: Patients) -> Contributions:
    """Return the contributions to the prediction of the only patient of `patients`.

    The mean of the training patients is zero in the columns that the head sees, since the metadata are
    centred, and the embeddings too unless the projection leaves them as they are. Of such embeddings the mean
    is taken from the bundle's domain, which compares them in a projection around their mean or, in bundles of
    older versions, in that of the head; without a domain, `without_images` is None.
    """
    model = bundle.head.model
    bags, metadata = bundle.head.inputs(patients)
    if bags is None or model.pooling is None or model.branch is None:
        return Contributions(None)
    logits: Logits = model(bags, metadata)
    average = _average_image(bundle)
    without_images = None
    if average is not None:
        same = replace(bags, x=average.expand(bags.x.shape))
        without_images = _values(bundle, model(same, metadata).total)
    without_metadata = _values(bundle, model(bags, torch.zeros_like(metadata)).total)
    if logits.image is None or logits.metadata is None:
        return Contributions(EARLY, None, without_images, without_metadata)
    parts = Parts(_mean(logits.image), _mean(logits.metadata))
    return Contributions(LATE, parts, without_images, without_metadata)


def _average_image(bundle: ModelBundle) -> Tensor | None:
    """Return the mean embedding of the training patients as the head sees it, (D,); None if it is unknown."""
    projection, domain = bundle.head.projection, bundle.about.domain
    if projection is None or projection.components is not None or bool(projection.shift.any()):
        return None if projection is None else torch.zeros(projection.width)
    if domain is None or domain.images is None:
        return None
    if bundle.domain_projection is not None:  # the means below are in this projection
        return projection(bundle.domain_projection.shift[None])[0]
    means = domain.images.space.means
    return torch.tensor(means) if len(means) == projection.width else None


def _mean(outputs: Tensor) -> list[float]:
    """Return the mean over the members of the outputs of the only patient: (K, 1) or (K, 1, C) -> (C,)."""
    return np.atleast_1d(outputs.double().numpy().mean(0)[0]).tolist()


def _values(bundle: ModelBundle, outputs: Tensor) -> list[float]:
    values = bundle.decision.predict(outputs.double().numpy().mean(0)).values[0]
    return np.atleast_1d(values).tolist()
