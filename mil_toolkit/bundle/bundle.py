"""`ModelBundle`: heads, projection, metadata encoder, and all that is needed to apply them elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from mil_toolkit.backbones.backbones import Backbone, backbone_of
from mil_toolkit.bundle.card import model_card
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.config import HeadConfig
from mil_toolkit.core.errors import DataError
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
from mil_toolkit.core.version import __version__
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection

SCHEMA = 1
TENSORS, CONFIG, SCORES, CARD = "model.safetensors", "config.json", "scores.json", "README.md"
BACKBONE = "backbone.safetensors"  # beside them, where the backbone was trained too
HEAD_ONNX, WHOLE_ONNX = "head.onnx", "whole.onnx"  # for other programs
FILES = frozenset({TENSORS, CONFIG, SCORES, CARD, BACKBONE, HEAD_ONNX, WHOLE_ONNX})


@dataclass(frozen=True)
class ModelBundle:
    """A fitted head with what it must be told by, and told about.

    about: JSON values: `study`, `cohort`, `patients` (how many), their digests `fitted_on` and `class_counts` (negative,
        positive), `images`, `class_names`, `columns` (the metadata as declared), `features` (name, digest and spec
        of the cache, in what its embeddings were computed; null without images), `procedure` (what the study was
        told), `epoch`, `decision` (see `Decision`), `versions`; `finetuned` (what trained the backbone and how) where
        `backbone` is there
    scores: as in the study's scores.json
    backbone: state dict of a backbone that was trained with the heads; None leaves the one of `features`
    """

    head: FittedHead
    about: Mapping[str, Any]
    scores: Mapping[str, Any]
    backbone: Mapping[str, Tensor] | None = None

    def probabilities(self, patients: Patients) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Probability (B,) of the positive class from the members' mean logit, the standard deviation (B,) of the
        members' own probabilities, and the attention (N,) or None."""
        logits, attention = self.head.apply(patients)
        decision = self.decision
        return decision.probabilities(logits.mean(0)), decision.probabilities(logits).std(0), attention

    @property
    def decision(self) -> Decision:
        """How its logits become probabilities and predictions."""
        return Decision(**self.about["decision"])

    def build_backbone(self, weights: Path | None = None) -> Backbone:
        """The network that embedded the training images; one that was trained with the heads is in the bundle.

        weights: its checkpoint; see `backbone_of`, which also says what is raised
        """
        return backbone_of(self.about["features"]["spec"], weights, self.backbone)

    def save(self, folder: Path) -> None:
        """Write the bundle's files into `folder`."""
        tensors = save(_tensors(self.head))
        head = {
            "config": asdict(self.head.model.config),
            "members": self.head.member_count,
            "embedding_width": 0 if self.head.projection is None else self.head.projection.width,
            "encoder": self.head.encoder.to_json(),
        }
        contents = {TENSORS: tensors, SCORES: readable_json(self.scores)}
        if self.backbone is not None:
            contents[BACKBONE] = save({name: each.contiguous() for name, each in self.backbone.items()})
        for name, content in contents.items():
            publish(folder / name, content)
        publish(folder / CARD, model_card(self.about, self.scores, self.head.member_count).encode())
        digests = {name: digest(content) for name, content in contents.items()}
        config = {"schema": SCHEMA, "digests": digests, "head": head, "about": dict(self.about)}
        publish_json(folder / CONFIG, {**config, "digest": digest_json(config)})

    @classmethod
    def load(cls, folder: Path | str) -> "ModelBundle":
        """Read a bundle; raises DataError where a file is missing, damaged, foreign or of a newer schema."""
        folder = Path(folder)
        config = _read_config(folder)
        contents = _read_checked(folder, config["digests"])
        try:
            head = _head(config["head"], load(contents[TENSORS]))
            backbone = load(contents[BACKBONE]) if BACKBONE in contents else None
            return cls(head, config["about"], json.loads(contents[SCORES]), backbone)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            written = config["about"]["versions"]["mil_toolkit"]
            raise DataError(
                f"{folder} was written by mil_toolkit {written}, and version {__version__} cannot build its model:"
                f" {' '.join(str(error).split())}. Use that version, or fit the model again."
            ) from None


def foreign_to_bundle(folder: Path) -> list[str]:
    """Names in a folder that `ModelBundle.save` and `publish_onnx` do not write; all of them where it is no bundle."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}
    return sorted(names - FILES if _describes_bundle(folder / CONFIG) else names)


def _describes_bundle(path: Path) -> bool:
    try:
        config = read_json(path)
    except DataError:
        return False
    return isinstance(config, dict) and {"schema", "digest", "head", "about"} <= config.keys()


def _tensors(head: FittedHead) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value.contiguous() for name, value in head.model.state_dict().items()}
    if head.projection is not None:
        parts = asdict(head.projection)
        tensors |= {
            f"projection.{name}": value.contiguous() for name, value in parts.items() if value is not None
        }
    return {name: value.detach().clone().cpu() for name, value in tensors.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(f"{folder} is no bundle: it has no {CONFIG}. mil-fit makes one: studies/NAME/model.")
    config = read_json(path)
    if not isinstance(config, dict) or not {"schema", "digest"} <= config.keys():
        raise DataError(f"{path} is not that of a bundle. mil-fit makes one: studies/NAME/model.")
    check_schema(path, config["schema"], SCHEMA)
    if config.pop("digest") != digest_json(config):
        raise DataError(f"{path} is damaged, or was edited: it is not the file that was written.")
    return config


def _read_checked(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of the bundle's other files; raises DataError that names all that are missing, damaged or foreign."""
    contents, problems = {}, []
    for name, expected in digests.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            problems.append(f"{folder / name} cannot be read: {error.strerror}.")
            continue
        if digest(contents[name]) != expected:
            problems.append(
                f"{folder / name} is damaged or foreign: not the file that {CONFIG} was written with."
            )
    if problems:
        raise DataError([*problems, "Copy the whole folder again, or fit the model again."])
    return contents


def _head(saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedHead:
    encoder = MetadataEncoder.from_json(saved["encoder"])
    members = generators([0] * saved["members"])
    model = MILModel(HeadConfig(**saved["config"]), saved["embedding_width"], len(encoder.columns), members)
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    parts = {name[11:]: value for name, value in tensors.items() if name.startswith("projection.")}
    projection = Projection(parts["shift"], parts["scale"], parts.get("components")) if parts else None
    return FittedHead(model, projection, encoder)


def declared(column: MetadataColumn) -> Mapping[str, Any]:
    """What of a metadata column must be the same where the model is applied; the table's heading may differ."""
    return {name: asdict(column)[name] for name in ("name", "kind", "transform", "unit")}


def fingerprints(patients: Patients) -> list[str]:
    """A digest of each patient's id, label and metadata, by which a model knows whom it was fitted on."""
    values = [[str(value) for value in row] for row in patients.metadata.itertuples(index=False)]
    rows = zip(patients.ids, patients.labels.tolist(), values, strict=True)
    return [digest_json(row)[:16] for row in rows]
