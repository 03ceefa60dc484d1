"""How scores and comparisons read."""

from typing import Any

import pytest

from mil_toolkit.config import THRESHOLD_NAMES
from mil_toolkit.evaluation.words import comparison, in_use, p_value, passed_over, spread, threshold_rule

SCORE = {"value": 0.5, "low": 0.25, "high": 0.75}


def compared(discordant: float) -> dict[str, Any]:
    return {"discordant": discordant, "differences": {"auc": {**SCORE, "p_value": 0.0004}}}


@pytest.mark.parametrize(("discordant", "warned"), [(9.9, True), (10.0, False)])
def test_a_difference_on_fewer_than_ten_discordant_patients_is_warned_of(
    discordant: float, warned: bool
) -> None:
    text = comparison(compared(discordant), "auc")
    assert text.startswith("+0.500 (+0.250 to +0.750), p <0.001")
    assert f"{discordant:g} discordant patients" in text
    assert ("rests on little" in text) == warned


def test_a_spread_that_is_not_known_is_not_told() -> None:
    seeds, splits = (
        spread({"spread": {"balanced_accuracy": each}})
        for each in ({"seeds": 0.0123, "splits": None}, {"seeds": 0.0123, "splits": 0.02})
    )
    assert seeds and seeds.endswith("accuracy: 0.012 over single members (seeds).")
    assert splits and splits.endswith("(seeds), 0.020 over repeats (splits).")
    assert spread({"spread": None}) is None


def test_a_p_value_is_never_zero() -> None:
    assert (p_value(0.0004), p_value(0.012), p_value(None)) == ("<0.001", "0.012", "-")


def test_what_the_clinic_asks_names_its_prevalence() -> None:
    scores = {"referred": SCORE, "ppv": SCORE, "npv": {"value": None, "low": None, "high": None}}
    assert in_use(scores, 0.3).startswith(
        "At a prevalence of 0.3: referred to flow cytometry 0.500 (0.250 to"
    )
    assert in_use(scores, None).startswith("At the cohort's share") and "NPV - (- to -)" in in_use(
        scores, None
    )


@pytest.mark.parametrize(
    ("led", "error", "words"),
    [
        (
            0.0123,
            0.02,
            "led by 0.0123 in balanced log loss, not more than one standard error of the difference (0.02).",
        ),
        (-0.1, 0.02, "it did not lead."),
        (None, None, "its lead has no standard error."),
    ],
)
def test_what_was_passed_over_for_the_defaults_is_named(
    led: float | None, error: float | None, words: str
) -> None:
    text = passed_over({"trial": 7, "lead": led, "error": error}, "balanced_log_loss")
    assert text.startswith("The defaults were kept: trial 7 had the best value") and text.endswith(words)


@pytest.mark.parametrize("rule", THRESHOLD_NAMES)
def test_every_threshold_rule_has_its_words_and_a_required_sensitivity_comes_before_it(rule: str) -> None:
    assert threshold_rule(rule, None)
    assert threshold_rule(rule, 0.95) == "a sensitivity of at least 0.95 in validation"
