"""Scores, intervals, paired comparisons and lists as text."""

from collections.abc import Mapping
from typing import Any

from mil_toolkit.core.text import count_of

TABLE = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "auc",
)  # what a summary shows of the metrics
FEW = 10  # discordant patients, below which a difference rests on little
_RULES = {
    "share": "the share of positives",
    "balanced": "the best balanced accuracy in validation",
    "half": "one half",
}


def number(value: float | None, sign: str = "") -> str:
    """Three decimals, or a dash where there is no value; sign "+" shows one always."""
    return "-" if value is None else format(value, f"{sign}.3f")


def with_interval(score: Mapping[str, Any], sign: str = "") -> str:
    """A score's `value` with its `low` and `high`."""
    value, low, high = (number(score[name], sign) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def spread(scores: Mapping[str, Any]) -> str | None:
    """How far the score moves with the seed, and with the split, as far as a study tells."""
    found = (scores["spread"] or {}).get("balanced_accuracy") or {}
    parts = {"single members (seeds)": found.get("seeds"), "repeats (splits)": found.get("splits")}
    known = [f"{number(value)} over {name}" for name, value in parts.items() if value is not None]
    return f"Standard deviation of the outer balanced accuracy: {', '.join(known)}." if known else None


def in_use(scores: Mapping[str, Any], prevalence: float | None) -> str:
    """What the clinic asks: whom the model refers, and what its answers are worth, at a prevalence."""
    share = "the cohort's share of positives" if prevalence is None else f"a prevalence of {prevalence:g}"
    shown = {name: with_interval(scores[name]) for name in ("referred", "ppv", "npv")}
    return (
        f"At {share}: referred to flow cytometry {shown['referred']} of the patients, PPV {shown['ppv']}, NPV"
        f" {shown['npv']}."
    )


def threshold_rule(rule: str, sensitivity: float | None) -> str:
    """Where the threshold lies: by a name of THRESHOLD_NAMES, unless a sensitivity is required."""
    if sensitivity is not None:
        return f"a sensitivity of at least {sensitivity:g} in validation"
    return _RULES[rule]


def passed_over(told: Mapping[str, Any], objective: str) -> str:
    """Why the defaults were kept though another trial had the best value; `told` as in `Best.passed_over`."""
    first = f"The defaults were kept: trial {told['trial']:d} had the best value, but trained again with all members"
    if told["lead"] is None or told["error"] is None:
        return f"{first} its lead has no standard error."
    if told["lead"] <= 0:
        return f"{first} it did not lead."
    lead = f"it led by {told['lead']:.3g} in {objective.replace('_', ' ')}"
    return f"{first} {lead}, not more than one standard error of the difference ({told['error']:.3g})."


def p_value(value: float | None) -> str:
    """Three decimals; what rounds to zero is shown as below a thousandth."""
    return "<0.001" if value is not None and value < 0.001 else number(value)


def comparison(compared: Mapping[str, Any], metric: str) -> str:
    """A paired difference in one metric, its p-value, and on how many patients it rests."""
    found = compared["differences"][metric]
    few = (
        " Few patients are decided differently: this rests on little." if compared["discordant"] < FEW else ""
    )
    return (
        f"{with_interval(found, '+')}, p {p_value(found['p_value'])},"
        f" {count_of(compared['discordant'], 'discordant patient')}.{few}"
    )
