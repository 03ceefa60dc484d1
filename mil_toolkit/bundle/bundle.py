"""`ModelBundle`: a fitted model with all that is needed to apply it elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from safetensors.torch import save
from torch import Tensor

from mil_toolkit.backbones.memory import BackboneMemory
from mil_toolkit.backbones.requests import check_available, identity_of
from mil_toolkit.backbones.source import BackboneSource, find_backbone_of
from mil_toolkit.bundle.card import model_card
from mil_toolkit.bundle.checks import encoder_problems
from mil_toolkit.bundle.files import (
    BACKBONE,
    CARD,
    CONFIG,
    SCORES,
    TENSORS,
    as_record,
    faulty,
    parse_content,
    read_config,
    read_contents,
)
from mil_toolkit.bundle.records import FINGERPRINTS, SCHEMA, About, BundleConfig
from mil_toolkit.bundle.tensors import (
    UnknownHead,
    build_domain_projection,
    build_head,
    domain_tensors,
    head_record,
    head_tensors,
    parse_tensors,
    take_domain_tensors,
)
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest, digest_json, publish, publish_json, readable_json
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import printable
from mil_toolkit.core.version import __version__
from mil_toolkit.evaluation.scoring import Predictions, Scoring
from mil_toolkit.features.spec import Spec
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.study.records import ColumnRecord, FinetuningScores, StudyScores
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection

if TYPE_CHECKING:
    from mil_toolkit.backbones.backbones import Backbone

_FINETUNING = "finetuned"  # key in scores.json, beside those of StudyScores


@dataclass(frozen=True)
class ModelBundle:
    """A fitted model with its description and its scores.

    scores: of the study or, for a fine-tuned model, of the fine-tuning
    backbone: state dict of a fine-tuned backbone; None where the backbone of `about.features` is used
    finetuning: comparison with the frozen backbone; None where the backbone was not fine-tuned
    domain_projection: in which `about.domain` compares embeddings; None where it does not, or where it does
        so in the projection of the head
    """

    head: FittedHead
    about: About
    scores: StudyScores
    backbone: Mapping[str, Tensor] | None = None
    finetuning: FinetuningScores | None = None
    domain_projection: Projection | None = None

    def apply(
        self, patients: Patients, attention: bool = True
    ) -> tuple[Predictions, np.ndarray, np.ndarray | None]:
        """Return the predictions, their spread and, where it is wanted, the attention.

        predictions: of B patients, from the mean logit of the members
        spread: standard deviation of the members' own values, in the shape of the values
        attention: (N,), or (N, C) if each class has its own; None without images
        """
        logits, weights = self.head.apply(patients, attention)
        spread = self.decision.predict(logits).values.std(0)
        return self.decision.predict(logits.mean(0)), spread, weights

    def probabilities(
        self, patients: Patients, attention: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the predicted values, their spread and the attention; see `apply`.

        With two classes, the values are the calibrated probabilities (B,) of the positive class.
        """
        predictions, spread, weights = self.apply(patients, attention)
        return predictions.values, spread, weights

    @property
    def decision(self) -> DecisionRule:
        """How logits become probabilities and predictions."""
        return self.about.decision

    @property
    def scoring(self) -> Scoring:
        """How the predictions are stored and scored."""
        return self.about.predicted.scoring

    @property
    def has_backbone(self) -> bool:
        """Whether images can be embedded for a view of the model; imported features have no backbone."""
        return any(view.has_backbone for view in self.about.views)

    def build_backbone(self, weights: Path | None = None, view: int = 0) -> "Backbone":
        """Return the network that embedded the training images of a view; a fine-tuned one is in the bundle.

        weights: its checkpoint, see `backbone_of`, also for the errors raised
        Raises UsageError for a model that does not look at images.
        """
        from mil_toolkit.backbones.backbones import backbone_of  # imports torchvision

        return backbone_of(self._spec(view), weights, self.backbone)

    def _spec(self, view: int) -> Spec:
        if not self.about.views:
            raise UsageError("This model does not look at images: it has no backbone.")
        return self.about.views[view].spec

    def backbone_source(self, root: Path, weights: Path | None = None, view: int = 0) -> BackboneSource:
        """Return the network that `build_backbone` builds, without building it before it is needed.

        root: of the caches, beside which checkpoints are remembered

        Raises UsageError if the network cannot be built, DataError if `weights` is another network.
        """
        spec = self._spec(view)
        check_available(spec, weights is not None or self.backbone is not None)
        if weights is not None and self.backbone is None:
            return find_backbone_of(spec, weights, BackboneMemory(root))
        return BackboneSource(identity_of(spec), partial(self.build_backbone, view=view))

    def save(self, folder: Path) -> None:
        """Write the files into `folder`; config.json last, since it holds the digests of the others."""
        tensors = head_tensors(self.head) | domain_tensors(self.domain_projection)
        contents = {TENSORS: save(tensors), SCORES: readable_json(self._scores_json())}
        if self.backbone is not None:
            weights = {name: tensor.contiguous() for name, tensor in self.backbone.items()}
            contents[BACKBONE] = save(weights)
        for name, content in contents.items():
            publish(folder / name, content)
        card = model_card(self.about, self.scores, self.head.member_count, self.head.by_group)
        publish(folder / CARD, card.encode())
        digests = {name: digest(content) for name, content in contents.items()}
        schema = FINGERPRINTS if isinstance(self.about.fitted_on, list) else SCHEMA
        config = BundleConfig(schema, digests, head_record(self.head), self.about).to_json()
        publish_json(folder / CONFIG, {**config, "digest": digest_json(config)})

    def _scores_json(self) -> dict[str, Json]:
        scores = to_json(self.scores)
        assert isinstance(scores, dict)
        return scores if self.finetuning is None else scores | {_FINETUNING: to_json(self.finetuning)}

    @classmethod
    def load(cls, folder: Path | str) -> "ModelBundle":
        """Read a bundle, whoever made it.

        Only files with the names of a bundle are opened, and nothing in them is executed. Raises DataError
        that names file and field where a file is missing, damaged, foreign or of a newer schema, and where
        its content contradicts itself; UsageError where permission is missing.
        """
        folder = Path(folder)
        config = read_config(folder)
        contents = read_contents(folder, config.digests)
        scores = _parse_scores(contents[SCORES], folder / SCORES)
        tensors = parse_tensors(contents[TENSORS], folder / TENSORS)
        of_domain = take_domain_tensors(tensors)
        head = _build_head(config, tensors, folder)
        columns = config.about.domain.own_columns if config.about.domain is not None else 0
        width = sum(view.spec["width"] for view in config.about.views)
        projection = build_domain_projection(of_domain, width, columns, folder / TENSORS)
        backbone = parse_tensors(contents[BACKBONE], folder / BACKBONE) if BACKBONE in contents else None
        if backbone is not None and not backbone:
            raise DataError(f"{printable(folder / BACKBONE)} holds no tensors.")
        return cls(head, config.about, scores[0], backbone, scores[1], projection)


class _FinetunedScores(TypedDict, total=False):
    """The key that scores.json has beside those of StudyScores."""

    finetuned: FinetuningScores


def _parse_scores(content: bytes, path: Path) -> tuple[StudyScores, FinetuningScores | None]:
    value = parse_content(path, content)
    return as_record(value, StudyScores, path), as_record(value, _FinetunedScores, path).get("finetuned")


def _build_head(config: BundleConfig, tensors: Mapping[str, Tensor], folder: Path) -> FittedHead:
    path, views = folder / CONFIG, {view.name: view.spec["width"] for view in config.about.views}
    try:
        head = build_head(config.head, views, tensors, folder / TENSORS)
    except UnknownHead as error:
        written = printable(config.about.versions["mil_toolkit"])
        raise DataError(
            f"{printable(path)} was written by mil_toolkit {written[:80]}, and version {__version__} cannot"
            f" build its model: {str(error)[:500]}. Use that version, or fit the model again."
        ) from None
    except ValueError as error:
        raise faulty(path, f"head.encoder: {error}.") from None
    if problems := list(encoder_problems(head.encoder, config.about.columns)):
        raise DataError([f"{printable(path)}: {problem}" for problem in problems])
    return head


def declared(column: MetadataColumn) -> ColumnRecord:
    """Return what must be the same where the model is applied; the heading in the table may differ."""
    return ColumnRecord(column.name, column.kind, column.transform, column.unit)
