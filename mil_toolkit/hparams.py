# Floor 0.5: every setting: one field is its default, its help and its search range. No heavy import here.
"""The configurations. Flags, `--set` names and search spaces are made from these fields alone."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mil_toolkit.errors import UsageError

BACKBONE_NAMES = ("resnet18", "resnet34", "resnet50", "efficientnet_lite0", "timm:NAME")
PREPROCESS_NAMES = ("none", "saturation-mask")
PRECISION_NAMES = ("auto", "float32", "bfloat16", "float16")

POOLING_NAMES = ("attention", "gated-attention", "mean", "max", "noisy-and", "top-k", "transformer")
METADATA_BRANCH_NAMES = ("mlp", "direct", "none")
FUSION_NAMES = ("concat", "late")
OPTIMIZER_NAMES = ("sgd", "adam", "adamw")
METRIC_NAMES = (
    "balanced_log_loss",
    "log_loss",
    "accuracy",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "auc",
    "brier",
)


@dataclass(frozen=True)
class Tunable:
    """What a search may do with a field: an interval (`low`, `high`) or a list (`search`).

    `choices` are the values allowed at all, `needs` another field's values without which this one has
    no effect, so that a search leaves it out.
    """

    help: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    search: tuple[Any, ...] = ()
    needs: tuple[str, tuple[Any, ...]] | None = None


def tunable(default: Any, **about: Any) -> Any:
    """A dataclass field with its default and its `Tunable`."""
    return field(default=default, metadata={"tunable": Tunable(**about)})


def tunables(config: type) -> dict[str, Tunable]:
    """The `Tunable` of every field, in the fields' order."""
    return {each.name: each.metadata["tunable"] for each in fields(config)}


@dataclass(frozen=True)
class ExtractionConfig:
    """The user's part of a cache's spec: what changes an embedding.

    weights: `imagenet`, `random` or the path of a checkpoint; crop: 0 keeps the whole image
    """

    backbone: str = "resnet34"
    weights: str = "imagenet"
    image_size: int = 224
    crop: int = 0
    preprocess: str = "none"


_HIDDEN_POOLINGS = ("attention", "gated-attention", "noisy-and", "transformer")


@dataclass(frozen=True)
class HeadConfig:
    """Everything that fixes a head and its training, but the data and the seed."""

    image_branch: bool = tunable(True, help="use the images; false leaves the metadata alone")
    standardise: bool = tunable(True, help="bring each embedding dimension to mean 0 and variance 1")
    components: int = tunable(
        64,
        choices=(0, 16, 32, 64, 128),
        search=(16, 32, 64, 128),
        help="principal components that the embeddings are reduced to; 0 keeps them whole",
    )
    pooling: str = tunable(
        "attention",
        choices=POOLING_NAMES,
        search=("attention", "gated-attention", "mean"),
        help="how a bag's embeddings become one",
    )
    hidden: int = tunable(
        128,
        choices=(32, 64, 128, 256, 512),
        search=(32, 64, 128, 256),
        needs=("pooling", _HIDDEN_POOLINGS),
        help="width of the attention layer",
    )
    zero_start: bool = tunable(
        True, help="start the attention's last layer at zero, so that the model begins as mean pooling"
    )
    top_k: int = tunable(
        8, low=1, high=64, log=True, needs=("pooling", ("top-k",)), help="instances that top-k keeps"
    )
    metadata_branch: str = tunable(
        "mlp", choices=METADATA_BRANCH_NAMES, search=("mlp", "direct"), help="what the metadata pass through"
    )
    metadata_hidden: int = tunable(64, help="width of the metadata branch")
    metadata_dropout: float = tunable(
        0.2, low=0.0, high=0.5, needs=("metadata_branch", ("mlp",)), help="dropout in the metadata branch"
    )
    fusion: str = tunable(
        "late",
        choices=FUSION_NAMES,
        search=FUSION_NAMES,
        help="concat: one classifier on both branches; late: sum of an image logit and a metadata logit",
    )
    auxiliary: float = tunable(
        0.5, low=0.0, high=1.0, needs=("fusion", ("late",)), help="weight of the branches' own losses"
    )
    embedding_dropout: float = tunable(0.25, low=0.0, high=0.5, help="dropout on the embeddings' columns")
    instance_dropout: float = tunable(0.25, low=0.0, high=0.7, help="share of a bag's instances left out")
    class_weights: bool = tunable(True, help="weigh both classes the same in the loss")
    optimizer: str = tunable(
        "adamw", choices=OPTIMIZER_NAMES, search=("adam", "adamw"), help="how the weights move"
    )
    momentum: float = tunable(0.9, low=0.0, high=0.99, needs=("optimizer", ("sgd",)), help="momentum of sgd")
    learning_rate: float = tunable(1e-3, low=2e-4, high=1e-2, log=True, help="first learning rate")
    gamma: float = tunable(0.9, low=0.85, high=1.0, help="factor on the learning rate after each epoch")
    weight_decay: float = tunable(1e-2, low=1e-4, high=1.0, log=True, help="pull of the weights towards zero")
    batch_size: int = tunable(16, help="bags in a mini-batch")
    epochs: int = tunable(50, help="epochs at most; the best one of them is used")
    patience: int = tunable(10, help="stop after so many epochs without a better one")
