# Floor 2.7: the fitted model and its folder: safetensors and JSON, complete in itself.
"""`ModelBundle`: heads, projection, metadata encoder, and all that is needed to apply them elsewhere."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mil_toolkit.calibration import Decision
from mil_toolkit.errors import DataError
from mil_toolkit.files import digest, digest_json, publish, publish_json, read_json
from mil_toolkit.hparams import HeadConfig
from mil_toolkit.inputs import Patients
from mil_toolkit.members import generators
from mil_toolkit.metadata import MetadataEncoder
from mil_toolkit.model import MILModel
from mil_toolkit.poolings import Instances
from mil_toolkit.projection import Projection

SCHEMA = 1
BACKBONE = "backbone.safetensors"  # in the bundle's folder, where the backbone was trained too
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
        return Instances(self.projection(embeddings)[None], patients.bags.sizes[places])


@dataclass(frozen=True)
class ModelBundle:
    """A fitted head with what it must be told by, and told about.

    about: JSON values: `study`, `cohort`, `patients` and their digests `fitted_on`, `class_names`, `columns` (the
        metadata as declared), `features` (spec and digest of the cache), `decision` (see `Decision`), `epoch`,
        `versions`; `finetuned` (what trained the backbone and how) where `backbone` is there
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

    def save(self, folder: Path) -> None:
        """Write the bundle's files into `folder`."""
        tensors = save(_tensors(self.head))
        head = {
            "config": asdict(self.head.model.config),
            "members": self.head.members,
            "embedding_width": 0 if self.head.projection is None else self.head.projection.width,
            "encoder": self.head.encoder.to_json(),
        }
        publish(folder / "model.safetensors", tensors)
        publish_json(folder / "scores.json", self.scores)
        publish(folder / "README.md", model_card(self).encode())
        config = {"schema": SCHEMA, "tensors": digest(tensors), "head": head, "about": dict(self.about)}
        if self.backbone is not None:
            backbone = save({name: each.contiguous() for name, each in self.backbone.items()})
            publish(folder / BACKBONE, backbone)
            config["backbone"] = digest(backbone)
        publish_json(folder / "config.json", {**config, "digest": digest_json(config)})

    @classmethod
    def load(cls, folder: Path) -> "ModelBundle":
        """Read a bundle; raises DataError where a file is missing, damaged, foreign or of a newer schema."""
        config = _read_config(folder / "config.json")
        tensors = _read_tensors(folder / "model.safetensors", config["tensors"])
        backbone = _read_tensors(folder / BACKBONE, config["backbone"]) if "backbone" in config else None
        return cls(
            _head(config["head"], tensors), config["about"], read_json(folder / "scores.json"), backbone
        )


def _tensors(head: FittedHead) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value.contiguous() for name, value in head.model.state_dict().items()}
    if head.projection is not None:
        parts = asdict(head.projection)
        tensors |= {
            f"projection.{name}": value.contiguous() for name, value in parts.items() if value is not None
        }
    return {name: value.detach().clone().cpu() for name, value in tensors.items()}


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    found = config.pop("schema", None) if isinstance(config, dict) else None
    if found != SCHEMA:
        raise DataError(f"{path} is of schema {found}, this version reads schema {SCHEMA}.")
    if config.pop("digest", None) != digest_json({"schema": SCHEMA, **config}):
        raise DataError(f"{path} is damaged, or was edited: it is not the file that was written.")
    return dict(config)


def _read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if digest(content) != expected:
        raise DataError(
            f"{path} is not the file that config.json was written with: it is damaged or foreign."
        )
    return dict(load(content))


def _head(saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedHead:
    encoder = MetadataEncoder.from_json(saved["encoder"])
    members = generators([0] * saved["members"])
    model = MILModel(HeadConfig(**saved["config"]), saved["embedding_width"], len(encoder.columns), members)
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    parts = {name[11:]: value for name, value in tensors.items() if name.startswith("projection.")}
    projection = Projection(parts["shift"], parts["scale"], parts.get("components")) if parts else None
    return FittedHead(model, projection, encoder)


def model_card(bundle: ModelBundle) -> str:
    """The README.md of a bundle: what it was made from, what it is worth, what it is not for."""
    about = bundle.about
    negative, positive = about["class_names"]
    return f"""# Model card: {about["study"]}

Tells *{positive}* (positive) from *{negative}* (negative) patients of cohort {about["cohort"]}, by the images of
a blood smear and {", ".join(column["name"] for column in about["columns"]) or "no clinical values"}.

- Training patients: {about["patients"]}; members averaged: {bundle.head.members}; epochs: {about["epoch"]}.
- Features: {about["features"]["name"] if about["features"] else "none, metadata alone"}.
- Threshold on the probability: {bundle.decision.threshold:.3f}.
- {_expected(bundle.scores)}

Apply it with `mil-predict`. It knows one hospital's staining, camera and patients; on others it has to be
validated first. It is a research tool, not a medical device, and must not decide on a patient's care.
"""


def _expected(scores: Mapping[str, Any]) -> str:
    if scores.get("outer"):
        balanced = scores["outer"]["balanced_accuracy"]["value"]
        return f"Expected balanced accuracy, from outer folds that chose nothing: {balanced:.3f}."
    return "Expected score: not evaluated. The study ran without outer folds."
