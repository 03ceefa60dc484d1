"""The configuration of a study."""

import math
from dataclasses import dataclass, field, replace

from mil_toolkit.config.head import SUPERVISED_POOLINGS, HeadConfig
from mil_toolkit.config.metrics import DEFAULT_OUTCOME, METRIC_NAMES, OUTCOME_METRICS, PRIMARY_NAMES
from mil_toolkit.config.settings import option_flag, parse_value
from mil_toolkit.config.tunable import Settings
from mil_toolkit.core.errors import UsageError

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
    objective: str = OUTCOME_METRICS[DEFAULT_OUTCOME].objective
    primary_metric: str = OUTCOME_METRICS[DEFAULT_OUTCOME].primary
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
                problems.append(f"{option_flag(name)} must lie between 0 and 1, not {share}.")
        if problems:
            raise UsageError("\n".join(problems))

    def _out_of_range(self) -> list[str]:
        problems = [
            f"{option_flag(name)} must be at least {low}, not {getattr(self, name)}."
            for name, (low, _) in _STUDY_RANGES.items()
            if getattr(self, name) < low
        ]
        return problems + [
            f"{option_flag(name)} must be at most {high}, not {getattr(self, name)}."
            for name, (_, high) in _STUDY_RANGES.items()
            if getattr(self, name) > high
        ]

    def _unknown_names(self) -> list[str]:
        return [
            f"{option_flag(name)} must be one of {', '.join(names)}, not {getattr(self, name)!r}."
            for name, names in _STUDY_NAMES.items()
            if getattr(self, name) not in names
        ]

    def _setting_problems(self) -> list[str]:
        """Return what is wrong with the settings: each must be a value that `--set` accepts."""
        problems = []
        for name, values in self.settings.items():
            for value in values:
                try:
                    if parse_value(name, str(value)) != value:
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
    problems += [] if known.two_classes else _two_classes_only(config)
    problems += [] if known.class_logits else _class_logits_only(config)
    if problems:
        raise UsageError("\n".join(problems))
    return replace(config, objective=objective, primary_metric=primary)


def _two_classes_only(config: StudyConfig) -> list[str]:
    """Return the options that only an outcome of two classes has, a sentence each."""
    default = StudyConfig()
    names = ("threshold", "sensitivity", "sensitivity_confidence", "prevalence")
    problems = [
        f"{option_flag(name)} needs an outcome of two classes (positive and negative)."
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


def _class_logits_only(config: StudyConfig) -> list[str]:
    """Return the settings that only a head with a logit for each class has, a sentence each."""
    if "classes" not in config.settings.get("attention_heads", ()):
        return []
    return ["--set attention_heads: classes needs an outcome of several classes without an order."]
