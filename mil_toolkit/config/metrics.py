"""The metrics and options of every kind of outcome, by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OutcomeMetrics:
    """The names of the metrics of a kind of outcome, and the options that only some kinds take.

    objective, primary: the defaults of `StudyConfig.objective` and `StudyConfig.primary_metric`
    loss: the metric by which a fine-tuned backbone has to be better; lower is better
    never_primary: those that cannot carry a verdict, without a better direction or an interval
    two_classes: whether the outcome takes the options of a threshold, and the poolings that learn which
        images are positive
    class_logits: whether each output of a head is the logit of a class, which can have its own attention
    """

    names: tuple[str, ...]
    objective: str
    primary: str
    loss: str
    never_primary: tuple[str, ...] = ()
    two_classes: bool = False
    class_logits: bool = False


DEFAULT_OUTCOME = "binary"  # of a cohort that declares no outcome
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
        loss="log_loss",
        never_primary=("calibration_error", "referred"),
        two_classes=True,
    ),
    "ordered": OutcomeMetrics(
        names=(*_CLASS_METRICS, "quadratic_kappa", "rank_error"),
        objective="balanced_log_loss",
        primary="balanced_accuracy",
        loss="balanced_log_loss",
    ),
    "classes": OutcomeMetrics(
        names=_CLASS_METRICS,
        objective="balanced_log_loss",
        primary="balanced_accuracy",
        loss="balanced_log_loss",
        class_logits=True,
    ),
    "number": OutcomeMetrics(
        names=("mae", "rmse", "r2", "spearman", "concordance"),
        objective="mae",
        primary="mae",
        loss="mae",
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
        loss="integrated_brier",
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
