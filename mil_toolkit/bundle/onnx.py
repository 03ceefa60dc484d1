"""`export_onnx`: a model as one ONNX file that predicts one patient at a time, with any number of images."""

import json
import logging
import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.embedder import fuse_batch_norm
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.checkpoints import Checkpoints, checkpoints_of
from mil_toolkit.bundle.files import HEAD_ONNX, WHOLE_ONNX
from mil_toolkit.bundle.onnx_rules import TorchRule, torch_rule
from mil_toolkit.config.head import BY_GROUP, HeadConfig
from mil_toolkit.core.errors import UsageError, import_extra
from mil_toolkit.core.files import publish
from mil_toolkit.features.spec import augmented
from mil_toolkit.model.instances import Instances
from mil_toolkit.study.records import one_or_all
from mil_toolkit.training.fitted import FittedHead

NO_PREDICTION = -1  # instead of a class, where the inputs allow none
logger = logging.getLogger(__name__)


def export_onnx(
    bundle: ModelBundle, path: Path | str, *, images: bool = False, weights: Checkpoints = None
) -> None:
    """Write a model as an ONNX file that predicts one patient at a time.

    The file holds the heads only or, with `images`, the backbone too.

    Inputs, as far as the model uses them:

    - without `images`: `embeddings` (N, D) float32 of the patient's N images; cast the float16 of a cache.
      Of a model that uses images in several orientations (`augment` in the spec), their mean in float32
    - with `images`: `pixels` (N, S, S, 3) uint8, RGB, cropped, resized and masked (or with a normalised
      stain) as `features.pixels.prepare` does for the spec's `image_size`, `crop`, `preprocess` and
      `sampling`. If the spec has `scale`, resample images to it first, with `features.scale.to_scale`. If it
      has `crop_um`, images of another resolution need a crop of the same micrometres; `cell-crop` and
      `cell-mask` need the
      search of `features.nucleus.find_nucleus` in the whole image. Division by 255, normalisation and the
      rounding of embeddings to float16 are part of the file. All N images pass through the network at once:
      for large bags, embed in batches and use the file without `images`. The file computes in float32;
      compared with embeddings that were computed in bfloat16, probabilities differ in the second decimal
    - of several views, `embeddings_1`, `embeddings_2` and so on, or `pixels_1`, `pixels_2` and so on, of the
      same N images in the order of `features`
    - `metadata` (M,) float32: the encoded columns in the order of `metadata_columns`. The encoder replaces
      missing values, so that none of them is NaN

    Outputs are `attention` (N,), which sums to one, or (N, C) where each of C classes has its own, and (1,)
    each, with the names and the values that they have in predictions.csv, the following columns. Its other
    columns, such as `in_domain`, `reasons` and the conformal `set`, are not part of the file:

    - of two classes `probability`, calibrated, of the positive class; `prediction` int64, 1 at or above the
      threshold
    - of several classes `probability:NAME` of each class; `prediction` int64, the number of the class, in the
      order of `class_names` from 0
    - of a number `predicted`, and the ends `low` and `high` of its prediction interval, in its unit
    - of survival `risk` at the horizon, and `survival:TIME` at the times up to then
    - `spread`, the standard deviation of the members' own predictions; of several values, one for each

    Where an input or an embedding is NaN or infinite, the prediction is -1 and all other outputs are NaN;
    also for a bag without images, unless the runtime refuses it.

    The file's metadata_props are JSON: `outcome` (its kind), `class_names` (negative and positive of two
    classes; empty without classes), `threshold` of two classes or `priors` of several, `unit` of a number,
    `horizon` of survival, `metadata_columns`, `metadata_encoder` (as in config.json; see
    `training.encoder.MetadataEncoder.encode`), `features` (the spec of the cache, or a list with that of each
    view) and `versions`.

    weights: checkpoints of the backbones, see `checkpoints_of` and `ModelBundle.build_backbone`
    Raises UsageError where the extra `onnx` is missing, for a model that standardises embeddings within
    groups, for `images` of a model that does not look at images or that uses them in several orientations,
    and the errors of `ModelBundle.build_backbone`.
    """
    require_exporter()
    check_exportable(bundle.head.model.config)
    if images and bundle.head.projection is None:
        raise UsageError("This model does not look at images: export it without them.")
    _write(bundle, Path(path), _backbones(bundle, weights) if images else [])


def _backbones(bundle: ModelBundle, weights: Checkpoints) -> list[Backbone]:
    """Return the backbone of each view; raises where a file with it could not predict as the bundle does."""
    turned = any(augmented(view.spec) for view in bundle.about.views)
    if turned and bundle.head.model.config.augment:
        raise UsageError(
            "The model predicts from the mean of the embeddings of each image in several orientations, which"
            f" follow from its file. Average these embeddings and use {HEAD_ONNX}, or predict with"
            " mil-predict."
        )
    checkpoints = checkpoints_of(weights, bundle.about.views)
    return [bundle.build_backbone(path, view) for view, path in enumerate(checkpoints)]


def publish_onnx(bundle: ModelBundle, folder: Path, weights: Checkpoints = None) -> list[Path]:
    """Write `head.onnx` and, for a model that looks at images, `whole.onnx`; return their paths.

    folder: of the bundle. Where the backbone is not available, `whole.onnx` is left out with a warning.
    See `export_onnx`.
    """
    check_exportable(bundle.head.model.config)
    head, whole = folder / HEAD_ONNX, folder / WHOLE_ONNX
    _write(bundle, head, [])
    if bundle.head.projection is None:
        return [head]
    try:
        backbones = _backbones(bundle, weights)
    except UsageError as error:
        logger.warning("%s is left out: %s", WHOLE_ONNX, error)
        return [head]
    _write(bundle, whole, backbones)
    return [head, whole]


def _write(bundle: ModelBundle, path: Path, backbones: Sequence[Backbone]) -> None:
    rule = torch_rule(bundle.decision, bundle.about.predicted)
    model = _OnePatient(bundle.head, rule, backbones).eval()
    program = _export(model, *_example(bundle, bool(backbones)), bundle.scoring.prediction_names)
    program.model.metadata_props.update(_properties(bundle, rule))
    _forget_sources(program)
    publish(path, program.model_proto.SerializeToString())


def _forget_sources(program: "torch.onnx.ONNXProgram") -> None:
    """Remove the paths of source files, which tell the installation's folder and often a user's name."""
    functions = program.model.functions.values()
    for node in chain(program.model.graph.all_nodes(), *(function.all_nodes() for function in functions)):
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


class _OnePatient(nn.Module):
    """The model for one patient: in each view embeddings (N, D) or, with backbones, pixels (N, S, S, 3)."""

    def __init__(self, head: FittedHead, rule: TorchRule, backbones: Sequence[Backbone]):
        super().__init__()
        self.head, self.rule, self.model = head, rule, head.model
        self.backbones = backbones
        self.networks = nn.ModuleList(fuse_batch_norm(backbone.network) for backbone in backbones)

    def forward(self, views: Sequence[Tensor], metadata: Tensor | None) -> tuple[Tensor, ...]:
        """Return the outputs that `export_onnx` documents; attention only where there are views."""
        instances = self._instances(views) if views else None
        usable = _usable(instances, metadata)
        rows = torch.zeros(0) if metadata is None else metadata
        outputs = self.model(instances, rows.expand(self.head.member_count, 1, -1)).total[:, 0]  # (K, ...)
        columns = [torch.where(usable, column, _nothing_like(column)) for column in self._columns(outputs)]
        if instances is not None and self.model.pooling is not None:
            attention = self.model.attention(instances).mean(0)
            columns.append(torch.where(usable, attention, torch.nan))
        return tuple(columns)

    def _columns(self, outputs: Tensor) -> list[Tensor]:
        """Return values, decision, intervals and spread (1,) from the members' outputs (K,) or (K, C)."""
        values = self.rule.values(outputs.mean(0, keepdim=True))  # (1, V)
        spread = self.rule.values(outputs).std(0, correction=0, keepdim=True)
        decisions = self.rule.decisions(values)
        decided = [] if decisions is None else [decisions]
        numbers = [*self.rule.intervals(values), *spread.unbind(-1)]
        return [*_floats(values.unbind(-1)), *decided, *_floats(numbers)]

    def _instances(self, views: Sequence[Tensor]) -> Instances:
        parts = [self._embed(view, pixels) for view, pixels in enumerate(views)] if self.backbones else views
        embeddings = torch.cat(list(parts), -1) if len(parts) > 1 else parts[0]
        assert self.head.projection is not None
        x = self.head.projection(embeddings)[None]
        count = x.shape[1]  # not len(), which would fix the number of images to that of the example
        return Instances(x, torch.zeros(count, dtype=torch.int64), [count], self.head.member_count)

    def _embed(self, view: int, pixels: Tensor) -> Tensor:
        """Embed as `Embedder` does in float32: (N, S, S, 3) uint8 -> (N, D), rounded to float16."""
        backbone = self.backbones[view]
        mean, std = (torch.tensor(values) * 255 for values in (backbone.mean, backbone.std))
        images = ((pixels.float() - mean) / std).permute(0, 3, 1, 2)
        embeddings: Tensor = self.networks[view](images)
        return embeddings.half().float()


def _floats(columns: Iterable[Tensor]) -> list[Tensor]:
    return [column.float() for column in columns]


def _nothing_like(column: Tensor) -> Tensor:
    """Return NaN instead of numbers, and NO_PREDICTION instead of a class."""
    return torch.full_like(column, torch.nan if column.is_floating_point() else NO_PREDICTION)


def _usable(instances: Instances | None, metadata: Tensor | None) -> Tensor:
    """Return (1,) bool, whether a prediction is possible: there are images, and all inputs are finite."""
    usable = torch.ones(1, dtype=torch.bool)
    if metadata is not None:
        usable = usable & metadata.isfinite().all()
    if instances is not None:
        x = instances.x[0]  # (N, D)
        # Not N itself, which the exporter takes to be positive.
        usable = usable & x.isfinite().all() & (torch.ones_like(x[:, 0]).sum() > 0)
    return usable


def _example(bundle: ModelBundle, images: bool) -> tuple[list[Tensor], Tensor | None]:
    """Return a bag of each view and a row of metadata of the right shapes, as far as they are used."""
    columns = len(bundle.head.encoder.columns)
    metadata = torch.zeros(columns) if columns else None
    if bundle.head.projection is None:
        return [], metadata
    specs = [view.spec for view in bundle.about.views]
    if not images:
        return [torch.zeros(3, spec["width"]) for spec in specs], metadata
    sides = [spec["image_size"] for spec in specs]
    return [torch.zeros(3, side, side, 3, dtype=torch.uint8) for side in sides], metadata


def _export(
    model: nn.Module, views: list[Tensor], metadata: Tensor | None, outputs: Sequence[str]
) -> "torch.onnx.ONNXProgram":
    """Return the ONNX program of a model whose bags may have any number of instances."""
    names = ["pixels" if view.ndim == 4 else "embeddings" for view in views]
    names = [f"{name}_{number}" for number, name in enumerate(names, 1)] if len(views) > 1 else names
    names += ["metadata"] if metadata is not None else []
    instances = torch.export.Dim("instances", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (views, metadata),
            input_names=names,
            output_names=[*outputs, "attention"] if views else outputs,
            dynamic_shapes=([{0: instances} for _ in views], None if metadata is None else {}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    return program


def _properties(bundle: ModelBundle, rule: TorchRule) -> dict[str, str]:
    features = one_or_all([view.spec for view in bundle.about.views])
    properties: dict[str, object] = {
        "outcome": bundle.about.predicted.kind,
        "class_names": bundle.about.class_names,
        **rule.properties,
        "metadata_columns": bundle.head.encoder.columns,
        "metadata_encoder": bundle.head.encoder.to_json(),
        "features": features,
        "versions": bundle.about.versions,
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in properties.items()}


def check_exportable(config: HeadConfig) -> None:
    """Raise UsageError for a head whose predictions need the images of other patients."""
    if config.image_branch and config.standardise == BY_GROUP:
        raise UsageError(
            "ONNX: the model standardises embeddings within groups of patients (standardise=group), and an"
            " ONNX file sees one patient at a time. Predict with mil-predict, or run mil-tune without"
            " standardise=group."
        )


def require_exporter() -> None:
    """Raise UsageError where the extra `onnx` is missing."""
    import_extra("onnxscript", "onnx", "ONNX export")
