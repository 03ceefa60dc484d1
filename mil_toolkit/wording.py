# Floor 0.3: how scores, comparisons and long lists read, in a summary, an error or a model card.
"""Scores, intervals, paired comparisons and lists as text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TABLE = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "auc",
)  # what a summary shows of the metrics
FEW = 10  # discordant patients, below which a difference rests on little
SOME = 5  # items of a list that a message shows
_RULES = {
    "share": "the share of positives",
    "balanced": "the best balanced accuracy in validation",
    "half": "one half",
}


def some(items: Sequence[object]) -> str:
    """The first of some items, and how many more there are."""
    rest = len(items) - SOME
    return ", ".join(map(str, items[:SOME])) + (f" and {rest} more" if rest > 0 else "")


def each_or_most(failed: Sequence[str], of: int, lines: Iterable[str], most: str) -> list[str]:
    """A line for each that failed; where most of all did, one line that tells the cause, with some of them.

    lines: of each; most: the cause, behind how many failed: "7 of 9 " + most + " P1, P2, P3, P4, P5 and 2 more."
    """
    if len(failed) <= SOME or 2 * len(failed) <= of:
        return list(lines)
    return [f"{len(failed)} of {of} {most} {some(failed)}."]


def number(value: float | None, sign: str = "") -> str:
    """Three decimals, or a dash where there is no value; sign "+" shows one always."""
    return "-" if value is None else format(value, f"{sign}.3f")


def counted(value: float) -> str:
    """A mean count: one decimal, none where it is whole."""
    return f"{value:.1f}".removesuffix(".0")


def count_of(value: float, one: str, many: str = "") -> str:
    """How many of something, in the singular or the plural, which has an s unless told."""
    return f"{counted(value)} {one if counted(value) == '1' else many or one + 's'}"


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
