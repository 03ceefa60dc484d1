"""The configurations. Command-line options, `--set` names and search spaces derive from their fields."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from mil_toolkit.core.errors import UsageError

CELL_NAMES = ("cell-crop", "cell-mask")
"""The preprocessing that searches each image for a nucleus and shows a window around it."""
BACKBONE_NAMES = ("resnet18", "resnet34", "resnet50", "efficientnet_lite0", "timm:NAME")
WEIGHT_WORDS = ("imagenet", "pretrained", "random")
"""Values of --weights that do not name a file; the first two mean the weights that the authors published."""
INTERPOLATION_NAMES = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
PREPROCESS_NAMES = ("none", "saturation-mask", *CELL_NAMES)
PRECISION_NAMES = ("auto", "float32", "bfloat16", "float16")
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
ACTIVATION_NAMES = ("relu", "gelu")
METADATA_BRANCH_NAMES = ("mlp", "direct", "none")
FUSION_NAMES = ("concat", "late")
VIEW_FUSION_NAMES = ("early", "late")
OPTIMIZER_NAMES = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class OutcomeMetrics:
    """The names of the metrics of a kind of outcome.

    objective, primary: the defaults of `StudyConfig.objective` and `StudyConfig.primary_metric`
    never_primary: those that cannot carry a verdict, without a better direction or an interval
    """

    names: tuple[str, ...]
    objective: str
    primary: str
    never_primary: tuple[str, ...] = ()


_CLASS_METRICS = ("balanced_log_loss", "balanced_accuracy", "macro_f1", "macro_auc", "brier", "kappa")
OUTCOME_METRICS: dict[str, OutcomeMetrics] = {
    "binary": OutcomeMetrics(
        names=(
            "balanced_log_loss",
            "log_loss",
            "accuracy",
            "sensitivity",
            "specificity",
            "balanced_accuracy",
            "auc",
            "auc_pooled",
            "brier",
            "calibration_error",
            "referred",
            "ppv",
            "npv",
        ),
        objective="balanced_log_loss",
        primary="balanced_accuracy",
        never_primary=("calibration_error", "referred"),
    ),
    "ordered": OutcomeMetrics(
        names=(*_CLASS_METRICS, "quadratic_kappa", "rank_error"),
        objective="balanced_log_loss",
        primary="balanced_accuracy",
    ),
    "classes": OutcomeMetrics(
        names=_CLASS_METRICS,
        objective="balanced_log_loss",
        primary="balanced_accuracy",
    ),
    "number": OutcomeMetrics(
        names=("mae", "rmse", "r2", "spearman", "concordance"), objective="mae", primary="mae"
    ),
    "survival": OutcomeMetrics(
        names=(
            "concordance_harrell",
            "concordance_uno",
            "integrated_brier",
            "brier_at_horizon",
            "calibration_at_horizon",
        ),
        objective="integrated_brier",
        primary="concordance_harrell",
        never_primary=("calibration_at_horizon",),
    ),
}
"""The metrics of each kind of outcome, which defines them."""
METRIC_NAMES = tuple(dict.fromkeys(name for metrics in OUTCOME_METRICS.values() for name in metrics.names))
PRIMARY_NAMES = tuple(
    dict.fromkeys(
        name
        for metrics in OUTCOME_METRICS.values()
        for name in metrics.names
        if name not in metrics.never_primary
    )
)
"""The metrics that can carry a study's verdict: those with a better direction and an interval."""
Value = bool | int | float | str
"""The value of a hyperparameter."""
Settings = Mapping[str, tuple[Value, ...]]
"""The values that each hyperparameter may take, by field of HeadConfig; a single value fixes it."""
ValueT = TypeVar("ValueT", bound=Value)


@dataclass(frozen=True)
class Tunable:
    """The help text of a field, the values that it may have, and those that a search tries.

    help: shown by `--help`
    low, high: the interval that a search samples, both ends included; log: whether it samples on a log scale
    choices: the only allowed values; without them, a number must lie between `minimum` and `maximum`
    search: the list of values that a search tries, if it is not an interval
    needs: values of other fields without which this one has no effect, so that a search does not suggest it
    maximum_excluded: whether `maximum` itself is not allowed
    joins_views: whether it has an effect only on several views that are used together
    is_later: whether studies of older versions lack it; the description of a study leaves it out where the
        study's search does not vary it
    """

    help: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()
    search: tuple[Value, ...] = ()
    needs: Settings = field(default_factory=dict)
    minimum: float = 0
    maximum: float = math.inf
    maximum_excluded: bool = False
    joins_views: bool = False
    is_later: bool = False

    @property
    def searched(self) -> bool:
        """Whether a search varies the field by default."""
        return self.low is not None or bool(self.search)

    @property
    def bounds(self) -> str:
        """The range of allowed numbers in words."""
        end = "below" if self.maximum_excluded else "at most"
        upper = f" and {end} {self.maximum}" if math.isfinite(self.maximum) else ""
        return f"at least {self.minimum}{upper}"

    def contains(self, value: float) -> bool:
        """Return whether a number lies in the allowed range."""
        below = value < self.maximum if self.maximum_excluded else value <= self.maximum
        return self.minimum <= value and below


def tunable_field(default: ValueT, tunable: Tunable) -> ValueT:
    """Return a dataclass field with a default value and a `Tunable`."""
    return field(default=default, metadata={"tunable": tunable})


def tunables(config: type) -> dict[str, Tunable]:
    """Return the `Tunable` of every field of a configuration class, in the order of the fields."""
    return {each.name: each.metadata["tunable"] for each in fields(config)}


@dataclass(frozen=True)
class Sampling:
    """How an image is resized to the square that a network sees.

    interpolation: a name in INTERPOLATION_NAMES; shrinking averages pixels with any of them but `nearest`
    mode: `squash` resizes the whole image to a square and ignores its aspect ratio; `centre` resizes the
        shorter side and keeps the central square
    crop_pct: side of what is kept, as a share of that of the resized image, as in the configurations of timm
    """

    interpolation: str = "bilinear"
    mode: Literal["squash", "centre"] = "squash"
    crop_pct: float = 1.0


SQUASHED = Sampling()
"""The whole image, resized bilinearly."""


@dataclass(frozen=True)
class ExtractionConfig:
    """The user's part of a cache's spec: everything that changes an embedding.

    weights: `imagenet` or `pretrained` (the published weights), `random` or the path of a checkpoint
    image_size: side in pixels of the image that the backbone gets; None for the size that it was made for
    crop: side in pixels of the part that is shown: the centre, or a window around the nucleus if `preprocess`
        is one of CELL_NAMES; 0 for the whole image, or the central square if `sampling` is `centre`
    crop_um: that side in micrometres; the cohort's resolution then determines `crop`
    scale: micrometres per pixel to which images are resampled before they are cropped; None: as they are
    sampling: None for that of the backbone
    augment: number of other orientations in which each image is embedded besides, 0 to 7
    """

    backbone: str = "resnet34"
    weights: str = "imagenet"
    image_size: int | None = None
    crop: int = 0
    preprocess: str = "none"
    crop_um: float | None = None
    scale: float | None = None
    sampling: Sampling | None = None
    augment: int = 0

    @property
    def side(self) -> int:
        """The side of the images, once it is decided."""
        assert self.image_size is not None
        return self.image_size


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
    standardise: bool = tunable_field(
        True, Tunable("scale each embedding dimension to mean 0 and variance 1", needs=_IMAGES)
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


@dataclass(frozen=True)
class FinetuneConfig:
    """How a backbone is trained together with the heads that a study chose, which keep their own training."""

    unfreeze: str = tunable_field(
        "",
        Tunable(
            "first part of the backbone to train, together with all later parts, or all; by default layer4,"
            " or the last block of a network without one"
        ),
    )
    epochs: int = tunable_field(
        5, Tunable("maximum number of epochs; inner cross-validation chooses the number", minimum=1)
    )
    backbone_rate: float = tunable_field(3e-5, Tunable("learning rate of the backbone, by AdamW", maximum=1))
    jitter: float = tunable_field(
        0.1,
        Tunable(
            "each image's colour channels are brightened or darkened by up to this share",
            maximum=1,
            maximum_excluded=True,
        ),
    )
    chunk: int = tunable_field(
        32,
        Tunable(
            "number of images that pass through the backbone at once; limits the memory needed", minimum=1
        ),
    )

    def __post_init__(self) -> None:
        problems = [
            f"{_flag(name)} must be {tunable.bounds}, not {getattr(self, name)}."
            for name, tunable in tunables(FinetuneConfig).items()
            if not isinstance(getattr(self, name), str) and not tunable.contains(getattr(self, name))
        ]
        if problems:
            raise UsageError("\n".join(problems))


PRESETS: dict[str, Settings] = {
    "default": {},
    "founding": {
        "standardise": (False,),
        "components": (0,),
        "pooling": ("attention",),
        "top_k": (8,),
        "hidden": (128,),
        "zero_start": (False,),
        "logistic_start": (False,),
        "metadata_branch": ("mlp",),
        "metadata_dropout": (0.2,),
        "fusion": ("concat",),
        "auxiliary": (0.0,),
        "embedding_dropout": (0.0,),
        "instance_dropout": (0.0,),
        "class_weights": (False,),
        "optimizer": ("adam", "sgd"),  # the report's choice is tried first
        "momentum": (0.0,),
        "learning_rate": (0.001, 0.005, 0.01),
        "gamma": (0.9,),
        "weight_decay": (0.0,),
    },
    "wide": {
        "components": (0, 16, 32, 64, 128),
        "instance_layers": (0, 1, 2),
        "pooling": ("attention", "gated-attention", "mean", "mean-std", "log-sum-exp", "dsmil"),
        "zero_start": (True, False),
    },
}
STARTS: dict[str, Mapping[str, Value]] = {
    "key-instance": {
        "components": 0,
        "pooling": "gated-attention",
        "zero_start": False,
        "embedding_dropout": 0.0,
        "instance_dropout": 0.0,
        "weight_decay": 0.01,
    },
    "instance-network": {
        "components": 0,
        "instance_layers": 2,
        "pooling": "gated-attention",
        "zero_start": False,
        "embedding_dropout": 0.0,
        "instance_dropout": 0.0,
        "weight_decay": 0.01,
    },
}
"""Starting points beside the defaults, for bags that one image decides. A search tries those that lie in its
space right after the defaults."""


def parse_settings(items: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """Parse `NAME=VALUE[,VALUE...]` items; raises UsageError that lists every invalid one.

    >>> parse_settings(["hidden=32,64", "class_weights=false"])
    {'hidden': (32, 64), 'class_weights': (False,)}
    """
    settings: dict[str, tuple[Value, ...]] = {}
    problems: list[str] = []
    for item in items:
        name, _, values = item.partition("=")
        try:
            settings[name] = tuple(_parse_value(name, value) for value in values.split(","))
        except ValueError as error:
            problems.append(f"--set {item}: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return settings


def head_config(values: Mapping[str, Value]) -> HeadConfig:
    """Return the HeadConfig with these values; raises UsageError that names every invalid one.

    Numbers may be of other types, such as NumPy's, as long as their text is that of the number.
    """
    parsed: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        try:
            parsed[name] = _parse_value(name, str(value))
        except ValueError as error:
            problems.append(f"{name}={value!r}: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return HeadConfig(**parsed)


def _parse_value(name: str, text: str) -> Value:
    known = tunables(HeadConfig)
    if name not in known:
        raise ValueError(f"{name!r} is not one of {', '.join(known)}.")
    tunable = known[name]
    value = _PARSERS[type(getattr(HeadConfig(), name))](text)
    if tunable.choices and value not in tunable.choices:
        raise ValueError(f"{text!r} is not one of {', '.join(map(str, tunable.choices))}.")
    if not isinstance(value, bool | str) and not tunable.choices and not tunable.contains(value):
        raise ValueError(f"must be {tunable.bounds}, not {text}.")
    return value


def _parse_bool(text: str) -> bool:
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false.")
    return words[text.lower()]


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number.") from None


def _parse_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number.") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite.")
    return value


_PARSERS: dict[type, Callable[[str], Value]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: str,
}


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


THRESHOLD_NAMES = ("share", "balanced", "half")
SAMPLER_NAMES = ("tpe", "random", "grid", "gp")
PRUNER_NAMES = ("median", "hyperband", "none")
TRACKER_NAMES = ("none", "wandb")
MOST_FOLDS = 10_000
MOST_EPOCHS = 100_000  # in files that others may have made
_STUDY_RANGES = {
    "trials": (1, 1_000_000),
    "folds": (1, MOST_FOLDS),
    "repeats": (1, 1000),
    "members": (1, 1000),
    "seed": (0, math.inf),
    "threads": (1, 1024),
    "together": (1, 1000),
}
_STUDY_NAMES = {
    "objective": METRIC_NAMES,
    "threshold": THRESHOLD_NAMES,
    "sampler": SAMPLER_NAMES,
    "pruner": PRUNER_NAMES,
}


@dataclass(frozen=True)
class ThresholdRule:
    """How the decision threshold is chosen from out-of-fold predictions.

    name: of THRESHOLD_NAMES; without effect if a sensitivity is required
    sensitivity: the sensitivity that the out-of-fold predictions have to reach
    confidence: if given, the one-sided lower bound of the sensitivity with this confidence has to reach it
    """

    name: str
    sensitivity: float | None = None
    confidence: float | None = None


# In place of the number of outer folds:
GROUPS = "groups"  # each group is one fold
OFFICIAL = "official"  # those that the cohort declares


@dataclass(frozen=True)
class StudyConfig:
    """The configuration of a study: with the data it determines the results.

    trials: in each search
    folds: inner folds; 1 is a single 80/20 split
    repeats: of the outer folds, with other splits
    outer_folds: of the nested cross-validation; 0 disables it, "groups" holds out each declared group once,
        "official" takes the folds and the repeats that the cohort declares
    members: models with different seeds that are averaged in a fitted model
    objective: the metric that the search optimises, a name of METRIC_NAMES
    primary_metric: the metric that carries the verdict, a name of PRIMARY_NAMES; all others are secondary
    threshold: the rule that chooses the decision threshold, unless a `sensitivity` is required
    sensitivity: the sensitivity that the threshold must reach in validation
    sensitivity_confidence: if given, the lower bound of the sensitivity with this confidence must reach it
    prevalence: share of positives for the predictive values where the model will be used; by default that of
        the cohort
    threads: of the numerical libraries in each search; results depend on it to the last bit
    together: trials of a search that are proposed together; on a card, those of equal shape are trained in
        one population
    settings: the values that `--set` and `--preset` allow
    """

    trials: int = 50
    folds: int = 5
    repeats: int = 1
    outer_folds: int | str = 5
    members: int = 5
    objective: str = OUTCOME_METRICS["binary"].objective
    primary_metric: str = OUTCOME_METRICS["binary"].primary
    threshold: str = "share"
    sensitivity: float | None = None
    sensitivity_confidence: float | None = None
    prevalence: float | None = None
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    threads: int = 1
    together: int = 1
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [*self._out_of_range(), *self._unknown_names(), *self._outer_fold_problems()]
        problems += [*self._setting_problems(), *self._decision_problems()]
        for name in ("sensitivity", "sensitivity_confidence", "prevalence"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                problems.append(f"{_flag(name)} must lie between 0 and 1, not {share}.")
        if problems:
            raise UsageError("\n".join(problems))

    def _out_of_range(self) -> list[str]:
        problems = [
            f"{_flag(name)} must be at least {low}, not {getattr(self, name)}."
            for name, (low, _) in _STUDY_RANGES.items()
            if getattr(self, name) < low
        ]
        return problems + [
            f"{_flag(name)} must be at most {high}, not {getattr(self, name)}."
            for name, (_, high) in _STUDY_RANGES.items()
            if getattr(self, name) > high
        ]

    def _unknown_names(self) -> list[str]:
        return [
            f"{_flag(name)} must be one of {', '.join(names)}, not {getattr(self, name)!r}."
            for name, names in _STUDY_NAMES.items()
            if getattr(self, name) not in names
        ]

    def _setting_problems(self) -> list[str]:
        """Return what is wrong with the settings: each must be a value that `--set` accepts."""
        problems = []
        for name, values in self.settings.items():
            for value in values:
                try:
                    if _parse_value(name, str(value)) != value:
                        raise ValueError(f"{value!r} is a text.")
                except ValueError as error:
                    problems.append(f"--set {name}: {error}")
            if not values:
                problems.append(f"--set {name}: there is no value.")
        return problems

    def _outer_fold_problems(self) -> list[str]:
        if self.outer_folds == GROUPS:
            if self.repeats > 1:
                return ["--repeats must be 1 with --outer-folds groups: there is only one such split."]
        elif self.outer_folds != OFFICIAL and not self._is_number_of_folds():
            return [
                f"--outer-folds must be 0 (none), at least 2, groups or official, not {self.outer_folds}."
            ]
        return []

    def _is_number_of_folds(self) -> bool:
        folds = self.outer_folds
        return isinstance(folds, int) and folds in (0, *range(2, MOST_FOLDS + 1))

    def _decision_problems(self) -> list[str]:
        problems = []
        if self.primary_metric not in PRIMARY_NAMES:
            known = ", ".join(PRIMARY_NAMES)
            problems.append(f"--primary-metric must be one of {known}, not {self.primary_metric}.")
        if self.sensitivity_confidence is not None and self.sensitivity is None:
            problems.append("--sensitivity-confidence needs --sensitivity: the bound that is to be reached.")
        return problems

    @property
    def threshold_rule(self) -> ThresholdRule:
        """How the decision threshold is chosen."""
        return ThresholdRule(self.threshold, self.sensitivity, self.sensitivity_confidence)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The maximum numbers of epochs that a search tries."""
        return tuple(int(value) for value in self.settings.get("epochs", (HeadConfig().epochs,)))


def for_outcome(config: StudyConfig, kind: str) -> StudyConfig:
    """Return the configuration for a kind of outcome.

    Metrics that the outcome does not have are replaced by its own defaults if they are those of
    `StudyConfig`, which nobody may have asked for. Raises UsageError for all others.
    """
    known, default = OUTCOME_METRICS[kind], StudyConfig()
    objective, primary = config.objective, config.primary_metric
    if objective not in known.names and objective == default.objective:
        objective = known.objective
    if primary not in known.names and primary == default.primary_metric:
        primary = known.primary
    problems = [
        f"{flag} must be one of {', '.join(names)} for the outcome {kind}, not {name}."
        for flag, name, names in (
            ("--objective", objective, known.names),
            ("--primary-metric", primary, [name for name in known.names if name not in known.never_primary]),
        )
        if name not in names
    ]
    problems += _binary_only(config) if kind != "binary" else []
    if problems:
        raise UsageError("\n".join(problems))
    return replace(config, objective=objective, primary_metric=primary)


def _binary_only(config: StudyConfig) -> list[str]:
    """Return the options that only an outcome of two classes has, a sentence each."""
    default = StudyConfig()
    names = ("threshold", "sensitivity", "sensitivity_confidence", "prevalence")
    problems = [
        f"{_flag(name)} needs an outcome of two classes (positive and negative)."
        for name in names
        if getattr(config, name) != getattr(default, name)
    ]
    supervised = [str(name) for name in config.settings.get("pooling", ()) if name in SUPERVISED_POOLINGS]
    if supervised:
        problems.append(
            f"--set pooling: {' and '.join(supervised)} needs an outcome of two classes (positive and"
            " negative). List other poolings."
        )
    return problems


def study_options(config: StudyConfig) -> list[str]:
    """Return the options of mil-tune that give `config`: those that differ from the defaults.

    >>> study_options(StudyConfig(trials=10, settings={"hidden": (32, 64)}))
    ['--trials', '10', '--set', 'hidden=32,64']
    """
    defaults, settings = asdict(StudyConfig()), dict(config.settings)
    preset = next(
        (name for name, fixed in PRESETS.items() if fixed and fixed.items() <= settings.items()), None
    )
    options = {
        name: value
        for name, value in asdict(config).items()
        if name != "settings" and value != defaults[name]
    }
    if preset:
        options["preset"] = preset
    if preset == "founding":  # it has an objective of its own
        options["objective"] = config.objective
    implied = {**(PRESETS[preset] if preset else {}), "epochs": (HeadConfig().epochs,)}
    changed = {
        name: values
        for name, values in settings.items()
        if implied.get(name) != values and name != "features"  # named by options of their own
    }
    return [*option_words(options), *set_options(changed)]


def option_words(values: Mapping[str, Value]) -> list[str]:
    """Return fields as the words of command-line options.

    >>> option_words({"outer_folds": 0})
    ['--outer-folds', '0']
    """
    return [word for name, value in values.items() for word in (_flag(name), str(value))]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def set_options(settings: Settings) -> list[str]:
    """Return settings as the `--set` options of mil-tune, with every digit: the input of `parse_settings`.

    >>> set_options({"hidden": (32, 64), "class_weights": (False,)})
    ['--set', 'hidden=32,64', '--set', 'class_weights=false']
    """
    return [
        word
        for name, values in settings.items()
        for word in ("--set", f"{name}={','.join(map(_setting_text, values))}")
    ]


def _setting_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class RunConfig:
    """How one command runs a study: none of it changes the results.

    storage: URL of the database of the trials; None stores them in the study folder
    workers: searches that run at once, each in a process of its own; 1 runs them one after the other in this
        process, None as many as cores and memory allow. With a shared storage: processes that share the
        trials of all searches, by default 1
    timeout: seconds after which a search starts no more trials
    tracker: service that the metrics are sent to, a name of TRACKER_NAMES
    """

    storage: str | None = field(default=None, repr=False)  # it may contain a password
    workers: int | None = 1
    timeout: float | None = None
    tracker: str = "none"

    def __post_init__(self) -> None:
        problems = []
        if self.workers is not None and self.workers < 1:
            problems.append(f"--workers must be at least 1, not {self.workers}.")
        if self.timeout is not None and not self.timeout > 0:
            problems.append(f"--timeout must be above 0 seconds, not {self.timeout}.")
        if problems:
            raise UsageError("\n".join(problems))


ALONE = RunConfig()  # a single process, with the trials in the study folder
