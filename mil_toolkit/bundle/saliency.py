"""`Saliency`: which parts of an image a bundle's prediction for a patient depends on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.embedder import Normaliser
from mil_toolkit.backbones.saliency import Map, Pixels, gradient_map, last_feature_map, occlusion_map
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.predict import extraction_config
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import view_names
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.read_prepared import PreparedFile, read_prepared
from mil_toolkit.features.resolution import in_pixels
from mil_toolkit.features.spec import for_backbone
from mil_toolkit.model.instances import Instances
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.losses import LOSSES
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.seen import Seen

GRADIENT, OCCLUSION = "gradient", "occlusion"
_BATCH = 16  # images that are embedded at once for an occlusion


@dataclass(frozen=True)
class BagOutput:
    """The output of a head for one patient as a function of the embeddings of the patient's images.

    embeddings: (n, D) float32 of all views that the head sees, side by side; metadata: (K, 1, M), encoded
    weights: of the scores in the number that is explained; mean over the members
    scores: returns these scores from the outputs (C,)
    """

    head: FittedHead
    embeddings: Tensor
    metadata: Tensor
    weights: Tensor
    scores: Callable[[Tensor], Tensor] = torch.atleast_1d

    @classmethod
    def of(cls, head: FittedHead, patients: Patients, weights: Sequence[float]) -> "BagOutput":
        """Return the output for the only patient of `patients`; raises as `Patients.seen_views`."""
        config = head.model.config
        views = [Seen.by(config, bags) for bags in patients.seen_views(config).values()]
        rows = torch.arange(int(views[0].bags.sizes[0]))
        embeddings = torch.cat([view.read_for_prediction(rows).float() for view in views], -1)
        _, metadata = head.inputs(patients)
        return cls(head, embeddings, metadata, torch.tensor(list(weights), dtype=torch.float32))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the explained number for these embeddings (n, D), a scalar."""
        assert self.head.projection is not None
        projected = self.head.projection(embeddings)[None]
        bags = Instances.of(projected, torch.tensor([len(embeddings)]), self.head.member_count)
        total = self.head.model(bags, self.metadata).total.mean(0)[0]
        return (self.scores(total) * self.weights).sum()

    def gradient(self) -> Tensor:
        """Return the gradient with respect to the embeddings, (n, D): through pooling and attention."""
        with torch.enable_grad():
            embeddings = self.embeddings.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self(embeddings), embeddings)
        return gradient.detach()

    @torch.no_grad()
    def replaced(self, image: int, columns: slice, others: Tensor) -> NDArray[np.float64]:
        """Return the numbers (m,) if one image has each of these embeddings (m, d) in some columns."""
        numbers = []
        for other in others:
            embeddings = self.embeddings.clone()
            embeddings[image, columns] = other
            numbers.append(float(self(embeddings)))
        return np.array(numbers)


def check_salient(bundle: ModelBundle) -> None:
    """Raise UsageError for a model whose predictions depend on no image."""
    if bundle.head.model.pooling is None:
        raise UsageError("--saliency: this model does not look at images. Leave --saliency out.")


def decision_weights(bundle: ModelBundle, decided: int | None) -> list[float]:
    """Return the weights of the scores in the number that speaks for a prediction, see `decision_scores`.

    decided: the class that is predicted, None where nothing is decided

    Of two classes it is the logit, with the other sign for class 0. Of several it is the logit of the class,
    of ordered classes its log-probability, and of other outcomes (hazards, a number) the sum of the outputs.
    """
    outputs = bundle.head.model.outputs
    if _label_without_logit(bundle, decided) is not None:
        return [1.0]
    if bundle.about.predicted.has_class_logits and decided is not None:
        return [float(place == decided) for place in range(outputs)]
    negative = bundle.about.predicted.fixed_classes and decided == 0
    return [-1.0 if negative else 1.0] * outputs


def decision_scores(bundle: ModelBundle, decided: int | None) -> Callable[[Tensor], Tensor]:
    """Return the function from the outputs (C,) to the scores that `decision_weights` belong to.

    These are the outputs themselves; the log-probability of the class, (1,), if no output is its logit.
    """
    label = _label_without_logit(bundle, decided)
    if label is None:
        return torch.atleast_1d
    loss, labels = LOSSES[bundle.about.predicted.kind], torch.tensor([label])
    return lambda outputs: -loss(outputs[None, None], labels)[0]


def _label_without_logit(bundle: ModelBundle, decided: int | None) -> int | None:
    """Return the class that is predicted if no output is its logit, as of ordered classes; else None."""
    predicted = bundle.about.predicted
    return None if predicted.fixed_classes or predicted.has_class_logits else decided


class SalientImage(NamedTuple):
    """An image as the network sees it, (S, S, 3) uint8, and how much each place of it counts, (h, w)."""

    pixels: Pixels
    map: Map
    method: str


@dataclass(frozen=True)
class Saliency:
    """Computes maps of the images of patients by the first view that the head of a bundle sees.

    cohort: the patients, whose images are at hand; view: position of that view in the bundle
    method: `gradient` or `occlusion`; None for the gradient where the network has a feature map
    """

    bundle: ModelBundle
    cohort: Cohort
    backbone: Backbone
    view: int
    weights: Path | None = None
    method: str | None = None

    @classmethod
    def of(cls, bundle: ModelBundle, cohort: Cohort, weights: Sequence[Path | None]) -> "Saliency":
        """Return the maps of a bundle; raises as `ModelBundle.build_backbone`.

        weights: checkpoint of each view's backbone, see `checkpoints_of`

        Raises UsageError for a model that does not look at images, even if it keeps its features.
        """
        check_salient(bundle)
        names = [view.name for view in bundle.about.views]
        chosen = view_names(bundle.head.model.config.features)
        view = names.index(chosen[0]) if chosen else 0
        return cls(bundle, cohort, bundle.build_backbone(weights[view], view), view, weights[view])

    def images(
        self, patients: Patients, decided: int | None, names: Sequence[str]
    ) -> dict[str, SalientImage]:
        """Return the maps of some images of the only patient of `patients`, by image name.

        decided: see `decision_weights`; images that cannot be read are left out
        """
        output = BagOutput.of(self.bundle.head, patients, decision_weights(self.bundle, decided))
        output = replace(output, scores=decision_scores(self.bundle, decided))
        gradient, found = output.gradient(), {}
        assert patients.bags is not None
        places = {name: place for place, name in enumerate(patients.bags.image_names)}
        for name in names:
            pixels = self._pixels(patients.ids[0], name)
            if pixels is not None:
                found[name] = self._image(output, gradient, places[name], pixels)
        return found

    def _image(self, output: BagOutput, gradient: Tensor, place: int, pixels: Pixels) -> SalientImage:
        columns = slice(0, self.backbone.width)  # the first view that the head sees
        if self._layer is not None and self.method != OCCLUSION:
            x = self._normalised(pixels[None])
            found = gradient_map(self.backbone.network, self._layer, x, gradient[place, columns])
            return SalientImage(pixels, found, GRADIENT)
        found = occlusion_map(pixels, lambda images: output.replaced(place, columns, self._embedded(images)))
        return SalientImage(pixels, found, OCCLUSION)

    @cached_property
    def _layer(self) -> str | None:
        """The module that returns the network's last feature map, None if there is none."""
        side = self.bundle.about.views[self.view].spec["image_size"]
        black = np.zeros((1, side, side, 3), dtype=np.uint8)
        return last_feature_map(self.backbone.network, self._normalised(black))

    def _normalised(self, images: Pixels) -> Tensor:
        normalise = Normaliser(self.backbone, torch.device("cpu"), torch.float32)
        normalised: Tensor = normalise(torch.from_numpy(np.array(images)))
        return normalised

    @torch.no_grad()
    def _embedded(self, images: Pixels) -> Tensor:
        parts = [
            self.backbone.network(self._normalised(images[first : first + _BATCH]))
            for first in range(0, len(images), _BATCH)
        ]
        return torch.cat(parts)

    def _pixels(self, patient: str, name: str) -> Pixels | None:
        """Return an image as the network sees it; None if it cannot be read."""
        spec = self.bundle.about.views[self.view].spec
        config = for_backbone(
            in_pixels(extraction_config(spec, self.weights), self.cohort),
            self.backbone.identity.preprocessing,
        )
        files = dict(zip(self.cohort.image_names[patient], self.cohort.images[patient], strict=True))
        scale = self.cohort.scales.get(patient) if config.scale is not None else None
        file = read_prepared(config, spec.get("colour"), files[name], scale)
        return file.pixels if isinstance(file, PreparedFile) else None
