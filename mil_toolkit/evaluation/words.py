"""Scores, intervals and paired comparisons as text, for summaries, the report and the model card."""

from collections.abc import Collection, Mapping

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.records import Comparison, Estimate, PassedOver, Score, Scores, Spread

TABLE = (  # metrics that a summary shows, as far as the outcome has them
    *("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc"),
    *("macro_f1", "macro_auc", "kappa", "quadratic_kappa"),
    *("mae", "rmse", "r2", "spearman", "concordance"),
    *("concordance_harrell", "concordance_uno", "integrated_brier"),
)
DEFAULTS_NOTE = (
    "The default configuration was itself chosen on the 90 labelled patients of the lymphocytosis challenge,"
    " who come from one hospital. For these patients, no score of this toolkit is a score on unseen patients,"
    " not even an outer one. For all other patients, this choice came before and apart from them."
)
FEW = 10  # discordant patients, below which a difference rests on too little evidence
LOWER_IS_BETTER = (
    *("balanced_log_loss", "log_loss", "brier", "calibration_error", "referred"),
    *("rank_error", "mae", "rmse"),
    *("integrated_brier", "brier_at_horizon", "calibration_at_horizon"),
)
_NAMES = {  # of metrics whose names are not their words
    "concordance_harrell": "Harrell's C",
    "concordance_uno": "Uno's C",
    "integrated_brier": "integrated Brier score",
    "brier_at_horizon": "Brier score at the horizon",
}
_CAPITALS = ("auc", "f1", "ppv", "npv", "mae", "rmse", "r2")
_RULES = {
    "share": "the share of positives",
    "balanced": "the highest balanced accuracy in inner cross-validation",
    "half": "0.5",
}


def metric_words(name: str) -> str:
    """Return the name of a metric within a sentence.

    >>> metric_words("balanced_log_loss"), metric_words("auc")
    ('balanced log loss', 'AUC')
    """
    words = [word.upper() if word in _CAPITALS else word for word in name.split("_")]
    return _NAMES.get(name, " ".join(words))


def loss_words(name: str) -> str:
    """Return the name of a loss within a sentence, with a hyphen where there is no other word before it.

    >>> loss_words("log_loss"), loss_words("mae")
    ('log-loss', 'MAE')
    """
    return "log-loss" if name == "log_loss" else metric_words(name)


def metric_with_direction(name: str) -> str:
    """Return the name of a metric within a sentence, and that lower is better where it is.

    >>> metric_with_direction("log_loss")
    'log loss (lower is better)'
    """
    return metric_words(name) + (" (lower is better)" if name in LOWER_IS_BETTER else "")


def metric_title(name: str) -> str:
    """Return the name of a metric at the beginning of a sentence."""
    words = metric_words(name)
    return words[0].upper() + words[1:]


def table_metrics(primary: str, known: Collection[str]) -> list[str]:
    """Return the metrics that a summary shows, among them the primary one; known: those of the outcome."""
    return list(dict.fromkeys([*(name for name in TABLE if name in known), primary]))


def number(value: float | None, sign: str = "") -> str:
    """Return a value with three decimals, or a dash for None; with sign "+" it always has a sign.

    >>> number(0.12345), number(0.5, "+"), number(None)
    ('0.123', '+0.500', '-')
    """
    return "-" if value is None else format(value, f"{sign}.3f")


def with_interval(estimate: Estimate, sign: str = "") -> str:
    """Return a value with its interval.

    >>> with_interval(Estimate(0.9, 0.85, 0.95))
    '0.900 (0.850 to 0.950)'
    """
    value, low, high = (number(each, sign) for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def calibration_words(score: Score) -> str:
    """Return a calibration error, beside the one that perfectly calibrated predictions would have.

    >>> calibration_words(Score(0.112, None, None, patients=90, repeats=1, expected_if_calibrated=0.095))
    '0.112 (0.095 is expected of perfectly calibrated predictions)'
    """
    expected = score.expected_if_calibrated
    beside = (
        "" if expected is None else f" ({number(expected)} is expected of perfectly calibrated predictions)"
    )
    return f"{number(score.value)}{beside}"


def spread_words(spread: Mapping[str, Spread] | None) -> str | None:
    """Return how much the outer balanced accuracy varies with seed and split; None where unknown."""
    known = None if spread is None else spread.get("balanced_accuracy")
    if known is None:
        return None
    parts = {"single members (seeds)": known.seeds, "repeats (splits)": known.splits}
    words = [f"{number(value)} over {name}" for name, value in parts.items() if value is not None]
    return f"Standard deviation of the outer balanced accuracy: {', '.join(words)}." if words else None


def fitted_word(scores: Scores) -> str:
    """Return what out-of-fold predictions of these metrics determine; only two classes have a threshold."""
    return "threshold" if "referred" in scores else "calibration"


def in_use(scores: Scores, prevalence: float | None) -> str | None:
    """Return what a clinic asks: the share of patients referred, PPV and NPV, at a prevalence.

    None for an outcome without these metrics.
    """
    if "referred" not in scores:
        return None
    share = "the cohort's share of positives" if prevalence is None else f"a prevalence of {prevalence:g}"
    referred, ppv, npv = (with_interval(scores[name]) for name in ("referred", "ppv", "npv"))
    return f"At {share}: referred to flow cytometry {referred} of the patients, PPV {ppv}, NPV {npv}."


def threshold_rule(rule: ThresholdRule) -> str:
    """Return how the threshold was chosen, and of a required sensitivity what it promises on new patients."""
    if rule.sensitivity is None:
        return _RULES[rule.name]
    if rule.confidence is None:
        return (
            f"a sensitivity of at least {rule.sensitivity:g} in inner cross-validation, without a margin: on"
            " new patients it is missed about half of the time"
        )
    return (
        f"a lower {100 * rule.confidence:g} % confidence bound of the sensitivity of at least"
        f" {rule.sensitivity:g} in inner cross-validation"
    )


def passed_over_words(kept: PassedOver, objective: str) -> str:
    """Return why the defaults were kept although another trial had the best value."""
    first = f"The defaults were kept: trial {kept.trial:d} had the best value, but"
    if kept.lead is None or kept.error is None:
        return f"{first} its lead over the defaults could not be estimated."
    name = metric_words(objective)
    if kept.trials is None:  # an older version
        return _one_error_words(first, kept.lead, kept.error, name)
    led = f"{first} its lead of {kept.lead:.3g} in {name}"
    if kept.critical is None:
        return f"{led} cannot be told from chance: there are too few patients or groups."
    equal = count_of(kept.trials, "equal trial")
    return (
        f"{led} does not exceed {kept.critical * kept.error:.3g}, which the best of {equal} exceeds by chance"
        " in about 5 % of searches (max-T test). In a small cohort the defaults are nearly always kept,"
        " because only a large improvement can be told from chance."
    )


def _one_error_words(first: str, lead: float, error: float, objective: str) -> str:
    retrained = f"{first} when both were retrained with all members,"
    if lead <= 0:
        return f"{retrained} it was not better."
    return (
        f"{retrained} it was better by only {lead:.3g} in {objective}, which does not exceed one standard"
        f" error of the difference ({error:.3g})."
    )


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals; one that rounds to zero is shown as below 0.001."""
    return "<0.001" if value is not None and value < 0.001 else number(value)


def comparison_words(comparison: Comparison, metric: str) -> str:
    """Return a paired difference in one metric, its p-value and, of decisions, how many are discordant."""
    difference = comparison.differences[metric]
    words = f"{with_interval(difference, '+')}, p {p_value(difference.p_value)}"
    if comparison.discordant is None:
        return f"{words}."
    few = ""
    if comparison.discordant < FEW:
        few = " Few patients are decided differently, so the evidence is weak."
    return f"{words}, {count_of(comparison.discordant, 'discordant patient')}.{few}"
