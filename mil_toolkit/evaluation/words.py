"""Scores, intervals and paired comparisons as text, for summaries, the report and the model card."""

from collections.abc import Mapping

from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.records import Comparison, Estimate, Score, Scores, Spread

TABLE = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")  # metrics that a summary shows
FEW = 10  # discordant patients, below which a difference rests on too little evidence
_RULES = {
    "share": "the share of positives",
    "balanced": "the highest balanced accuracy in inner cross-validation",
    "half": "0.5",
}


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


def in_use(scores: Scores, prevalence: float | None) -> str:
    """Return what a clinic asks: the share of patients referred, PPV and NPV, at a prevalence."""
    share = "the cohort's share of positives" if prevalence is None else f"a prevalence of {prevalence:g}"
    referred, ppv, npv = (with_interval(scores[name]) for name in ("referred", "ppv", "npv"))
    return f"At {share}: referred to flow cytometry {referred} of the patients, PPV {ppv}, NPV {npv}."


def threshold_rule(rule: str, sensitivity: float | None) -> str:
    """Return how the threshold was chosen: by a name of THRESHOLD_NAMES, unless a sensitivity is required."""
    if sensitivity is not None:
        return f"a sensitivity of at least {sensitivity:g} in inner cross-validation"
    return _RULES[rule]


def passed_over_words(trial: int, lead: float | None, error: float | None, objective: str) -> str:
    """Return why the defaults were kept although another trial had the best value; see `PassedOver`."""
    first = (
        f"The defaults were kept: trial {trial:d} had the best value, but when both were retrained with all"
        " members,"
    )
    if lead is None or error is None:
        return f"{first} the standard error of the difference was undefined."
    if lead <= 0:
        return f"{first} it was not better."
    return (
        f"{first} it was better by only {lead:.3g} in {objective.replace('_', ' ')}, which does not exceed"
        f" one standard error of the difference ({error:.3g})."
    )


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals; one that rounds to zero is shown as below 0.001."""
    return "<0.001" if value is not None and value < 0.001 else number(value)


def comparison_words(comparison: Comparison, metric: str) -> str:
    """Return a paired difference in one metric, its p-value and the number of discordant patients."""
    difference = comparison.differences[metric]
    few = ""
    if comparison.discordant < FEW:
        few = " Few patients are decided differently, so the evidence is weak."
    return (
        f"{with_interval(difference, '+')}, p {p_value(difference.p_value)},"
        f" {count_of(comparison.discordant, 'discordant patient')}.{few}"
    )
