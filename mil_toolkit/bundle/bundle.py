"""`ModelBundle`: a fitted model with all that is needed to apply it elsewhere.

All file names of a bundle are here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from mil_toolkit.backbones.backbones import Backbone, backbone_of
from mil_toolkit.bundle.card import model_card
from mil_toolkit.bundle.records import SCHEMA, About, BundleConfig, HeadRecord
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.config import HeadConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import (
    TEMPORARY_PREFIX,
    check_schema,
    digest,
    digest_json,
    publish,
    publish_json,
    read_json,
    readable_json,
)
from mil_toolkit.core.records import Json, from_json, to_json
from mil_toolkit.core.version import __version__
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.study.records import ColumnRecord, FinetuningScores, StudyScores
from mil_toolkit.training.encoder import EncoderRecord, MetadataEncoder
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection

TENSORS, CONFIG, SCORES, CARD = "model.safetensors", "config.json", "scores.json", "README.md"
BACKBONE = "backbone.safetensors"  # only where the backbone was fine-tuned
HEAD_ONNX, WHOLE_ONNX = "head.onnx", "whole.onnx"  # for other programs
FILES = frozenset({TENSORS, CONFIG, SCORES, CARD, BACKBONE, HEAD_ONNX, WHOLE_ONNX})
_FINETUNING = "finetuned"  # key in scores.json, beside those of StudyScores
_MODEL, _PROJECTION = "model.", "projection."  # prefixes of the tensors' names


@dataclass(frozen=True)
class ModelBundle:
    """A fitted model with its description and its scores.

    scores: of the study or, for a fine-tuned model, of the fine-tuning
    backbone: state dict of a fine-tuned backbone; None where the backbone of `about.features` is used
    finetuning: comparison with the frozen backbone; None where the backbone was not fine-tuned
    """

    head: FittedHead
    about: About
    scores: StudyScores
    backbone: Mapping[str, Tensor] | None = None
    finetuning: FinetuningScores | None = None

    def probabilities(self, patients: Patients) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the calibrated probabilities, their spread and the attention.

        probability: (B,) of the positive class, from the mean logit of the members
        spread: (B,) standard deviation of the members' own probabilities
        attention: (N,), or None without images
        """
        logits, attention = self.head.apply(patients)
        decision = self.decision
        return decision.probabilities(logits.mean(0)), decision.probabilities(logits).std(0), attention

    @property
    def decision(self) -> Decision:
        """How logits become probabilities and predictions."""
        return self.about.decision

    @property
    def has_backbone(self) -> bool:
        """Whether images can be embedded for the model; imported features have no backbone."""
        features = self.about.features
        return features is not None and features.spec["weight_digest"] is not None

    def build_backbone(self, weights: Path | None = None) -> Backbone:
        """Return the network that embedded the training images; a fine-tuned one is in the bundle.

        weights: its checkpoint, see `backbone_of`, also for the errors raised
        Raises UsageError for a model that does not look at images.
        """
        if self.about.features is None:
            raise UsageError("This model does not look at images: it has no backbone.")
        return backbone_of(self.about.features.spec, weights, self.backbone)

    def save(self, folder: Path) -> None:
        """Write the files into `folder`; config.json last, since it holds the digests of the others."""
        contents = {TENSORS: save(_tensors(self.head)), SCORES: readable_json(self._scores_json())}
        if self.backbone is not None:
            tensors = {name: tensor.contiguous() for name, tensor in self.backbone.items()}
            contents[BACKBONE] = save(tensors)
        for name, content in contents.items():
            publish(folder / name, content)
        card = model_card(self.about, self.scores, self.head.member_count)
        publish(folder / CARD, card.encode())
        digests = {name: digest(content) for name, content in contents.items()}
        config = BundleConfig(SCHEMA, digests, _head_record(self.head), self.about).to_json()
        publish_json(folder / CONFIG, {**config, "digest": digest_json(config)})

    def _scores_json(self) -> dict[str, Json]:
        scores = to_json(self.scores)
        assert isinstance(scores, dict)
        return scores if self.finetuning is None else scores | {_FINETUNING: to_json(self.finetuning)}

    @classmethod
    def load(cls, folder: Path | str) -> "ModelBundle":
        """Read a bundle; raises DataError where a file is missing, damaged, foreign or of a newer schema."""
        folder = Path(folder)
        config = _read_config(folder)
        contents = _read_checked(folder, config.digests)
        try:
            return _build(folder, config, contents)
        except (DataError, KeyError, TypeError, ValueError, RuntimeError) as error:
            written = config.about.versions["mil_toolkit"]
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(
                f"{folder} was written by mil_toolkit {written}, and version {__version__} cannot build its"
                f" model: {reason}. Use that version, or fit the model again."
            ) from None


def _build(folder: Path, config: BundleConfig, contents: Mapping[str, bytes]) -> ModelBundle:
    scores = json.loads(contents[SCORES])
    return ModelBundle(
        _head(config.head, load(contents[TENSORS])),
        config.about,
        from_json(scores, StudyScores, folder / SCORES),
        load(contents[BACKBONE]) if BACKBONE in contents else None,
        from_json(scores[_FINETUNING], FinetuningScores, folder / SCORES) if _FINETUNING in scores else None,
    )


def foreign_to_bundle(folder: Path) -> list[str]:
    """Return the names in a folder that do not belong to a bundle; all names if the folder is not one."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}
    return sorted(names - FILES if _describes_bundle(folder / CONFIG) else names)


def _describes_bundle(path: Path) -> bool:
    try:
        config = read_json(path)
    except DataError:
        return False
    return isinstance(config, dict) and {"schema", "digest", "head", "about"} <= config.keys()


def _head_record(head: FittedHead) -> HeadRecord:
    width = 0 if head.projection is None else head.projection.width
    return HeadRecord(asdict(head.model.config), head.member_count, width, dict(head.encoder.to_json()))


def _tensors(head: FittedHead) -> dict[str, Tensor]:
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in head.model.state_dict().items()}
    if head.projection is not None:
        parts = asdict(head.projection)
        tensors |= {f"{_PROJECTION}{name}": tensor for name, tensor in parts.items() if tensor is not None}
    return {name: tensor.contiguous().detach().clone().cpu() for name, tensor in tensors.items()}


def _read_config(folder: Path) -> BundleConfig:
    """Read config.json; raises DataError where it is missing, foreign, of a newer schema or damaged."""
    path, advice = folder / CONFIG, "mil-fit writes a bundle, by default to studies/NAME/model."
    if not path.is_file():
        raise DataError(f"{folder} is not a bundle: it has no {CONFIG}. {advice}")
    config = read_json(path)
    if not isinstance(config, dict) or not {"schema", "digest"} <= config.keys():
        raise DataError(f"{path} is not the {CONFIG} of a bundle. {advice}")
    check_schema(path, config["schema"], SCHEMA)
    if config.pop("digest") != digest_json(config):
        raise DataError(f"{path} is damaged or was edited: its content does not match its digest.")
    return from_json(config, BundleConfig, path)


def _read_checked(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    """Return the content of the other files; raises DataError that lists the missing and damaged ones."""
    contents, problems = {}, []
    for name, expected in digests.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            problems.append(f"{folder / name} cannot be read: {error.strerror}.")
            continue
        if digest(contents[name]) != expected:
            problems.append(
                f"{folder / name} is damaged or foreign: it does not match the digest in {CONFIG}."
            )
    if problems:
        raise DataError([*problems, "Copy the whole folder again, or fit the model again."])
    return contents


def _head(record: HeadRecord, tensors: Mapping[str, Tensor]) -> FittedHead:
    encoder = MetadataEncoder.from_json(cast(EncoderRecord, record.encoder))
    config: Any = record.config  # a mapping, so that HeadConfig refuses the fields of other versions
    seeds = generators([0] * record.members)
    model = MILModel(HeadConfig(**config), record.embedding_width, len(encoder.columns), seeds)
    model.load_state_dict(_with_prefix(tensors, _MODEL))
    parts = _with_prefix(tensors, _PROJECTION)
    projection = Projection(parts["shift"], parts["scale"], parts.get("components")) if parts else None
    return FittedHead(model, projection, encoder)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def declared(column: MetadataColumn) -> ColumnRecord:
    """Return what must be the same where the model is applied; the heading in the table may differ."""
    return ColumnRecord(column.name, column.kind, column.transform, column.unit)


def fingerprints(patients: Patients) -> list[str]:
    """Return a digest of each patient's id, label and metadata, to recognise training patients later."""
    values = [[str(value) for value in row] for row in patients.metadata.itertuples(index=False)]
    rows = zip(patients.ids, patients.labels.tolist(), values, strict=True)
    return [digest_json(row)[:16] for row in rows]
