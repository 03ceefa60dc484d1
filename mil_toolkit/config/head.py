"""The hyperparameters of a head and its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mil_toolkit.config.tunable import Tunable, Value, tunable_field, tunables

POOLING_NAMES = (
    "attention",
    "gated-attention",
    "mean",
    "max",
    "noisy-and",
    "top-k",
    "transformer",
    "mean-std",
    "log-sum-exp",
    "dsmil",
    "clam",
)

SUPERVISED_POOLINGS = ("dsmil", "clam")  # which predict instances as well

CLASSWISE_POOLINGS = ("attention", "gated-attention", "top-k", "transformer")
"""The poolings that can have an attention for each class."""

ATTENTION_HEADS_NAMES = ("shared", "classes")

ACTIVATION_NAMES = ("relu", "gelu")

METADATA_BRANCH_NAMES = ("mlp", "direct", "none")

FUSION_NAMES = ("concat", "late")

VIEW_FUSION_NAMES = ("early", "late")

OPTIMIZER_NAMES = ("sgd", "adam", "adamw")

BY_GROUP = "group"  # of `HeadConfig.standardise`: within each group of patients

VIEW_SEPARATOR = "+"  # between the names of views that are used together


def view_names(features: str) -> list[str]:
    """Return the names of the feature folders in a value of `HeadConfig.features`; none for the default.

    >>> view_names("whole+crop"), view_names("")
    (['whole', 'crop'], [])
    """
    return features.split(VIEW_SEPARATOR) if features else []


_IMAGES: dict[str, tuple[Value, ...]] = {"image_branch": (True,)}

_MLP: dict[str, tuple[Value, ...]] = {"metadata_branch": ("mlp",)}

_LAYERS: dict[str, tuple[Value, ...]] = {"instance_layers": (1, 2)}


@dataclass(frozen=True)
class HeadConfig:
    """The hyperparameters of a head and its training, which determine the result for given data and seed."""

    image_branch: bool = tunable_field(True, Tunable("use the images; false uses only the metadata"))
    standardise: bool | Literal["group"] = tunable_field(
        True,
        Tunable(
            "scale each embedding dimension to mean 0 and variance 1; group: before that, within each group"
            " of patients by its own moments, also those of held-out patients, without labels",
            choices=(True, False, BY_GROUP),
            needs=_IMAGES,
        ),
    )
    components: int = tunable_field(
        64,
        Tunable(
            "number of principal components that the embeddings are reduced to; 0 disables the reduction",
            choices=(0, 16, 32, 64, 128),
            search=(16, 32, 64, 128),
            needs=_IMAGES,
        ),
    )
    augment: bool = tunable_field(
        True,
        Tunable(
            "use the orientations of mil-extract --augment, if the features have any: a random one of each"
            " image an epoch in training, their mean in prediction",
            needs=_IMAGES,
        ),
    )
    instance_layers: int = tunable_field(
        0,
        Tunable(
            "number of fully connected layers that transform each image's embedding before the pooling",
            choices=(0, 1, 2),
            maximum=2,
            needs=_IMAGES,
            is_later=True,
        ),
    )
    instance_width: int = tunable_field(
        128,
        Tunable(
            "width of these layers",
            choices=(32, 64, 128, 256, 512),
            search=(64, 128, 256),
            needs=_LAYERS,
            is_later=True,
        ),
    )
    instance_activation: str = tunable_field(
        "relu",
        Tunable(
            "activation of these layers",
            choices=ACTIVATION_NAMES,
            search=ACTIVATION_NAMES,
            needs=_LAYERS,
            is_later=True,
        ),
    )
    instance_layer_dropout: float = tunable_field(
        0.25,
        Tunable(
            "dropout rate of the columns after each of these layers",
            low=0.0,
            high=0.5,
            maximum=1,
            maximum_excluded=True,
            needs=_LAYERS,
            is_later=True,
        ),
    )
    pooling: str = tunable_field(
        "attention",
        Tunable(
            "how the embeddings of a bag are combined into one",
            choices=POOLING_NAMES,
            search=("attention", "gated-attention", "mean"),
            needs=_IMAGES,
        ),
    )
    hidden: int = tunable_field(
        128,
        Tunable(
            "width of the hidden layer of the pooling",
            choices=(32, 64, 128, 256, 512),
            search=(32, 64, 128, 256),
            needs={
                "pooling": (
                    "attention",
                    "gated-attention",
                    "noisy-and",
                    "transformer",
                    "log-sum-exp",
                    "dsmil",
                    "clam",
                )
            },
        ),
    )
    attention_heads: str = tunable_field(
        "shared",
        Tunable(
            "shared: one attention for all classes; classes: each class has its own attention, and its logit"
            " depends on the embedding that it pools; needs an outcome of several classes without an order",
            choices=ATTENTION_HEADS_NAMES,
            needs={"pooling": CLASSWISE_POOLINGS},
            of_classes=True,
            is_later=True,
        ),
    )
    features: str = tunable_field(
        "",
        Tunable(
            "names of the feature folders that are used, joined by +; given by --features and --views",
            needs=_IMAGES,
        ),
    )
    view_fusion: str = tunable_field(
        "late",
        Tunable(
            "early: the columns of all views of an image side by side, and one pooling; late: a pooling for"
            " each view, and the pooled views side by side",
            choices=VIEW_FUSION_NAMES,
            search=VIEW_FUSION_NAMES,
            needs=_IMAGES,
            joins_views=True,
        ),
    )
    zero_start: bool = tunable_field(
        True,
        Tunable(
            "initialise the last layer of the attention and the classifier with zeros, so that the model"
            " starts as mean pooling"
        ),
    )
    top_k: int = tunable_field(
        8,
        Tunable(
            "number of instances that top-k pooling keeps",
            low=1,
            high=64,
            log=True,
            minimum=1,
            needs={"pooling": ("top-k",)},
        ),
    )
    instance_loss: float = tunable_field(
        0.5,
        Tunable(
            "weight of the loss of single images: of the critical one of dsmil, of the clusters of clam",
            low=0.0,
            high=1.0,
            needs={"pooling": SUPERVISED_POOLINGS},
            is_later=True,
        ),
    )
    metadata_branch: str = tunable_field(
        "direct",
        Tunable(
            "how the metadata enter the model",
            choices=METADATA_BRANCH_NAMES,
            search=("mlp", "direct"),
        ),
    )
    logistic_start: bool = tunable_field(
        True,
        Tunable(
            "initialise the metadata weights with a logistic regression on the training patients",
            needs={"metadata_branch": ("direct",)},
        ),
    )
    metadata_hidden: int = tunable_field(
        64, Tunable("width of the metadata branch", minimum=1, maximum=16_384, needs=_MLP)
    )
    metadata_dropout: float = tunable_field(
        0.2,
        Tunable(
            "dropout rate in the metadata branch",
            low=0.0,
            high=0.5,
            maximum=1,
            maximum_excluded=True,
            needs=_MLP,
        ),
    )
    fusion: str = tunable_field(
        "late",
        Tunable(
            "concat: one classifier on both branches; late: sum of an image logit and a metadata logit",
            choices=FUSION_NAMES,
            search=FUSION_NAMES,
            needs={**_IMAGES, "metadata_branch": ("mlp", "direct")},
        ),
    )
    auxiliary: float = tunable_field(
        0.5,
        Tunable("weight of each branch's own loss", low=0.0, high=1.0, needs={"fusion": ("late",)}),
    )
    embedding_dropout: float = tunable_field(
        0.25,
        Tunable(
            "dropout rate of the columns of a bag's embedding",
            low=0.0,
            high=0.5,
            maximum=1,
            maximum_excluded=True,
            needs=_IMAGES,
        ),
    )
    instance_dropout: float = tunable_field(
        0.25,
        Tunable(
            "share of a bag's instances that each training step leaves out",
            low=0.0,
            high=0.7,
            maximum=1,
            maximum_excluded=True,
            needs=_IMAGES,
        ),
    )
    class_weights: bool = tunable_field(True, Tunable("give both classes the same total weight in the loss"))
    optimizer: str = tunable_field("adamw", Tunable("optimizer of the head", choices=OPTIMIZER_NAMES))
    momentum: float = tunable_field(
        0.9,
        Tunable(
            "momentum of sgd",
            low=0.0,
            high=0.99,
            maximum=1,
            maximum_excluded=True,
            needs={"optimizer": ("sgd",)},
        ),
    )
    learning_rate: float = tunable_field(
        3e-3, Tunable("initial learning rate", low=5e-4, high=2e-2, log=True)
    )
    gamma: float = tunable_field(
        0.9, Tunable("factor applied to the learning rate after each epoch", low=0.85, high=1.0, maximum=1)
    )
    weight_decay: float = tunable_field(0.1, Tunable("weight decay", low=1e-3, high=1.0, log=True))
    batch_size: int = tunable_field(16, Tunable("number of bags in a mini-batch", minimum=1))
    epochs: int = tunable_field(50, Tunable("maximum number of epochs; the best epoch is used", minimum=1))
    patience: int = tunable_field(
        10, Tunable("stop after this many epochs without an improvement", minimum=1)
    )


def is_active(values: Mapping[str, Value], tunable: Tunable) -> bool:
    """Return whether a field has an effect, given the values of the active fields before it.

    >>> is_active({"pooling": "mean"}, tunables(HeadConfig)["hidden"])
    False
    """
    if tunable.joins_views and len(view_names(str(values.get("features", "")))) < 2:
        return False
    return all(values.get(name) in allowed for name, allowed in tunable.needs.items())


def active_fields(config: HeadConfig) -> dict[str, Value]:
    """Return the fields of a configuration that have an effect."""
    values: dict[str, Value] = {}
    for name, tunable in tunables(HeadConfig).items():
        if is_active(values, tunable):
            values[name] = getattr(config, name)
    return values
