"""The configurations. Flags, `--set` names and search spaces are made from these fields alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mil_toolkit.core.errors import UsageError

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
    "auc_pooled",
    "brier",
    "calibration_error",
    "referred",
    "ppv",
    "npv",
)


Value = bool | int | float | str


@dataclass(frozen=True)
class Tunable:
    """What a field may be, and what a search does with it: an interval (`low`, `high`) or a list (`search`).

    choices: the values allowed at all; numbers without them lie in [least, most], or below `most` where `open_end`
    needs: values of other fields without which this one has no effect, so that a search leaves it out
    """

    help: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    search: tuple[Any, ...] = ()
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    least: float = 0
    most: float = math.inf
    open_end: bool = False

    @property
    def searched(self) -> bool:
        """Whether a search moves the field unless it is told otherwise."""
        return self.low is not None or bool(self.search)


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


_IMAGES = {"image_branch": (True,)}
_RATE = {"most": 1, "open_end": True}


@dataclass(frozen=True)
class HeadConfig:
    """Everything that fixes a head and its training, but the data and the seed."""

    image_branch: bool = tunable(True, help="use the images; false leaves the metadata alone")
    standardise: bool = tunable(
        True, needs=_IMAGES, help="bring each embedding dimension to mean 0 and variance 1"
    )
    components: int = tunable(
        64,
        choices=(0, 16, 32, 64, 128),
        search=(16, 32, 64, 128),
        needs=_IMAGES,
        help="principal components that the embeddings are reduced to; 0 keeps them whole",
    )
    pooling: str = tunable(
        "attention",
        choices=POOLING_NAMES,
        search=("attention", "gated-attention", "mean"),
        needs=_IMAGES,
        help="how a bag's embeddings become one",
    )
    hidden: int = tunable(
        128,
        choices=(32, 64, 128, 256, 512),
        search=(32, 64, 128, 256),
        needs={"pooling": ("attention", "gated-attention", "noisy-and", "transformer")},
        help="width of the pooling's hidden layer",
    )
    zero_start: bool = tunable(
        True,
        help="start the attention's last layer and the classifier at zero, so that the model begins as mean pooling"
        " and departs from it only where that pays",
    )
    top_k: int = tunable(
        8, low=1, high=64, log=True, least=1, needs={"pooling": ("top-k",)}, help="instances that top-k keeps"
    )
    metadata_branch: str = tunable(
        "direct",
        choices=METADATA_BRANCH_NAMES,
        search=("mlp", "direct"),
        help="what the metadata pass through",
    )
    logistic_start: bool = tunable(
        True,
        needs={"metadata_branch": ("direct",)},
        help="start the metadata's weights at the logistic regression of the training patients",
    )
    metadata_hidden: int = tunable(
        64, least=1, needs={"metadata_branch": ("mlp",)}, help="width of the metadata branch"
    )
    metadata_dropout: float = tunable(
        0.2,
        low=0.0,
        high=0.5,
        **_RATE,
        needs={"metadata_branch": ("mlp",)},
        help="dropout in the metadata branch",
    )
    fusion: str = tunable(
        "late",
        choices=FUSION_NAMES,
        search=FUSION_NAMES,
        needs=_IMAGES | {"metadata_branch": ("mlp", "direct")},
        help="concat: one classifier on both branches; late: sum of an image logit and a metadata logit",
    )
    auxiliary: float = tunable(
        0.5, low=0.0, high=1.0, needs={"fusion": ("late",)}, help="weight of the branches' own losses"
    )
    embedding_dropout: float = tunable(
        0.25, low=0.0, high=0.5, **_RATE, needs=_IMAGES, help="dropout on the columns of a bag's embedding"
    )
    instance_dropout: float = tunable(
        0.25, low=0.0, high=0.7, **_RATE, needs=_IMAGES, help="share of a bag's instances left out"
    )
    class_weights: bool = tunable(True, help="weigh both classes the same in the loss")
    optimizer: str = tunable("adamw", choices=OPTIMIZER_NAMES, help="how the weights move")
    momentum: float = tunable(
        0.9, low=0.0, high=0.99, **_RATE, needs={"optimizer": ("sgd",)}, help="momentum of sgd"
    )
    learning_rate: float = tunable(3e-3, low=5e-4, high=2e-2, log=True, help="first learning rate")
    gamma: float = tunable(
        0.9, low=0.85, high=1.0, most=1, help="factor on the learning rate after each epoch"
    )
    weight_decay: float = tunable(0.1, low=1e-3, high=1.0, log=True, help="pull of the weights towards zero")
    batch_size: int = tunable(16, least=1, help="bags in a mini-batch")
    epochs: int = tunable(50, least=1, help="epochs at most; the best one of them is used")
    patience: int = tunable(10, least=1, help="stop after so many epochs without a better one")


@dataclass(frozen=True)
class FinetuneConfig:
    """How a backbone is trained together with the heads that a study chose; their own training goes on as it was."""

    unfreeze: str = tunable(
        "",
        help="first part of the backbone that is trained, with all behind it, or all; by default layer4, or the last"
        " block of a network that has none",
    )
    epochs: int = tunable(5, least=1, help="epochs at most; inner folds choose how many")
    backbone_rate: float = tunable(3e-5, most=1, help="learning rate of the backbone, by AdamW")
    jitter: float = tunable(
        0.1, **_RATE, help="colour channels are brightened or darkened by up to this share, image by image"
    )
    chunk: int = tunable(
        32, least=1, help="images that are in the backbone at once: sets the memory it needs"
    )

    def __post_init__(self) -> None:
        wrong = [
            f"--{name.replace('_', '-')} must be {_range(about)}, not {getattr(self, name)}."
            for name, about in tunables(FinetuneConfig).items()
            if not isinstance(getattr(self, name), str) and not in_range(getattr(self, name), about)
        ]
        if wrong:
            raise UsageError("\n".join(wrong))


Settings = Mapping[str, tuple[Value, ...]]
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
        "optimizer": ("adam", "sgd"),  # first what the report came to, for whom a part of the grid is enough
        "momentum": (0.0,),
        "learning_rate": (0.001, 0.005, 0.01),
        "gamma": (0.9,),
        "weight_decay": (0.0,),
    },
}


def parse_settings(items: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """`NAME=VALUE[,VALUE...]` items as settings; raises UsageError that lists every wrong one."""
    settings: dict[str, tuple[Any, ...]] = {}
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


def head_config(values: Mapping[str, Any]) -> HeadConfig:
    """The configuration with these values, of whatever number types; raises UsageError that names every wrong one."""
    built: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        try:
            built[name] = _parse_value(name, str(value))
        except ValueError as error:
            problems.append(f"{name}={value!r}: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return HeadConfig(**built)


def _parse_value(name: str, text: str) -> Any:
    known = tunables(HeadConfig)
    if name not in known:
        raise ValueError(f"{name!r} is none of {', '.join(known)}.")
    about, kind = known[name], type(getattr(HeadConfig(), name))
    value = _CONVERTERS[kind](text)
    if about.choices and value not in about.choices:
        raise ValueError(f"{text!r} is none of {', '.join(map(str, about.choices))}.")
    if kind in (int, float) and not about.choices and not in_range(value, about):
        raise ValueError(f"must be {_range(about)}, not {text}.")
    return value


def in_range(value: float, about: Tunable) -> bool:
    """Whether a number may be taken at all."""
    return about.least <= value < about.most if about.open_end else about.least <= value <= about.most


def _range(about: Tunable) -> str:
    end = "below" if about.open_end else "at most"
    return f"at least {about.least}" + (f" and {end} {about.most}" if math.isfinite(about.most) else "")


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


_CONVERTERS: dict[type, Callable[[str], Any]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: str,
}


def is_active(values: Mapping[str, Any], about: Tunable) -> bool:
    """Whether a field has an effect, given the values of the active fields before it."""
    return all(values.get(name) in allowed for name, allowed in about.needs.items())


THRESHOLD_NAMES = ("share", "balanced", "half")
SAMPLER_NAMES = ("tpe", "random", "grid", "gp")
PRUNER_NAMES = ("median", "hyperband", "none")
TRACKER_NAMES = ("none", "wandb")
GROUPS = "groups"  # in the place of a number of outer folds: each group is one


@dataclass(frozen=True)
class StudyConfig:
    """What a study is told, beside its data.

    trials: in each search; folds: inner folds, 1 for a single 80/20 split; repeats, outer_folds: of the nested
    cross-validation, 0 outer folds for none, "groups" for one a declared group; members: seeds that are averaged in a fitted model
    threshold: the rule that chooses it, unless a `sensitivity` is required; prevalence: of positives where the model
    will be used, for the predictive values; None takes the cohort's
    settings: what `--set` and `--preset` say
    """

    trials: int = 50
    folds: int = 5
    repeats: int = 1
    outer_folds: int | str = 5
    members: int = 5
    objective: str = "balanced_log_loss"
    threshold: str = "share"
    sensitivity: float | None = None
    prevalence: float | None = None
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"trials": 1, "folds": 1, "repeats": 1, "members": 1, "seed": 0}
        low = [
            f"--{name.replace('_', '-')} must be at least {bound}, not {getattr(self, name)}."
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if self.outer_folds == GROUPS:
            if self.repeats > 1:
                low.append("--repeats must be 1 with --outer-folds groups: there is one such split.")
        elif not isinstance(self.outer_folds, int) or self.outer_folds == 1 or self.outer_folds < 0:
            low.append(f"--outer-folds must be 0 (none), at least 2, or groups, not {self.outer_folds}.")
        for name in ("sensitivity", "prevalence"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                low.append(f"--{name} must lie between 0 and 1, not {share}.")
        if low:
            raise UsageError("\n".join(low))


def study_options(config: StudyConfig) -> list[str]:
    """The options by which mil-tune is told this study: those that differ from its defaults."""
    default, settings = asdict(StudyConfig()), dict(config.settings)
    preset = next(
        (name for name, fixed in PRESETS.items() if fixed and fixed.items() <= settings.items()), None
    )
    fixed = PRESETS[preset] if preset else {}
    told = {
        name: value for name, value in asdict(config).items() if name != "settings" and value != default[name]
    }
    if preset:
        told |= {"preset": preset, "objective": config.objective}  # a preset has an objective of its own
    usual = {**fixed, "epochs": (HeadConfig().epochs,)}
    changed = {name: values for name, values in settings.items() if usual.get(name) != values}
    return [*option_words(told), *set_options(changed)]


def option_words(values: Mapping[str, Any]) -> list[str]:
    """Fields as options of a command."""
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def set_options(settings: Settings) -> list[str]:
    """Settings as mil-tune takes them, every digit kept: what `parse_settings` reads."""
    return [
        word
        for name, values in settings.items()
        for word in ("--set", f"{name}={','.join(map(_setting_text, values))}")
    ]


def _setting_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class RunConfig:
    """How one command runs a study, which is no part of what the study is told.

    storage: of the trials, a URL, or None for the study folder; workers: processes
    timeout: seconds after which no more trials of a search begin; tracker: where else the metrics go
    """

    storage: str | None = field(default=None, repr=False)  # may hold a password
    workers: int = 1
    timeout: float | None = None
    tracker: str = "none"

    def __post_init__(self) -> None:
        problems = []
        if self.workers < 1:
            problems.append(f"--workers must be at least 1, not {self.workers}.")
        if self.timeout is not None and not self.timeout > 0:
            problems.append(f"--timeout must be above 0 seconds, not {self.timeout}.")
        if problems:
            raise UsageError("\n".join(problems))


ALONE = RunConfig()  # one process, with the trials in the study folder
