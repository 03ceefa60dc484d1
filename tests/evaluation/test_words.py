"""Scores, spreads, comparisons and choices as text."""

import pytest

from mil_toolkit.config import THRESHOLD_NAMES
from mil_toolkit.evaluation.records import Comparison, Difference, Score, Spread
from mil_toolkit.evaluation.words import (
    comparison_words,
    in_use,
    p_value,
    passed_over_words,
    spread_words,
    threshold_rule,
)

SCORE = Score(0.5, 0.25, 0.75, patients=20, repeats=1)


def compared(discordant: float) -> Comparison:
    return Comparison(discordant, {"auc": Difference(0.5, 0.25, 0.75, p_value=0.0004)})


@pytest.mark.parametrize(("discordant", "weak"), [(9.9, True), (10.0, False)])
def test_a_difference_on_fewer_than_ten_discordant_patients_is_weak_evidence(
    discordant: float, weak: bool
) -> None:
    text = comparison_words(compared(discordant), "auc")
    assert text.startswith("+0.500 (+0.250 to +0.750), p <0.001")
    assert f"{discordant:g} discordant patients" in text
    assert ("the evidence is weak" in text) == weak


def test_an_unknown_spread_is_left_out() -> None:
    seeds, both = (spread_words({"balanced_accuracy": Spread(0.0123, splits)}) for splits in (None, 0.02))
    assert seeds and seeds.endswith("accuracy: 0.012 over single members (seeds).")
    assert both and both.endswith("(seeds), 0.020 over repeats (splits).")
    assert spread_words(None) is None
    assert spread_words({"balanced_accuracy": Spread(None, None)}) is None


def test_a_p_value_is_never_zero() -> None:
    assert (p_value(0.0004), p_value(0.012), p_value(None)) == ("<0.001", "0.012", "-")


def test_predictive_values_name_their_prevalence() -> None:
    scores = {"referred": SCORE, "ppv": SCORE, "npv": Score(None, None, None, patients=20, repeats=1)}
    start = "At a prevalence of 0.3: referred to flow cytometry 0.500 (0.250 to"
    assert in_use(scores, 0.3).startswith(start)
    of_cohort = in_use(scores, None)
    assert of_cohort.startswith("At the cohort's share") and "NPV - (- to -)" in of_cohort


@pytest.mark.parametrize(
    ("lead", "error", "words"),
    [
        (
            0.0123,
            0.02,
            (
                "by only 0.0123 in balanced log loss, which does not exceed one standard error of the"
                " difference (0.02)."
            ),
        ),
        (-0.1, 0.02, "it was not better."),
        (None, None, "the standard error of the difference was undefined."),
    ],
)
def test_the_trial_that_the_defaults_were_preferred_to_is_named(
    lead: float | None, error: float | None, words: str
) -> None:
    text = passed_over_words(7, lead, error, "balanced_log_loss")
    assert text.startswith("The defaults were kept: trial 7 had the best value") and text.endswith(words)


@pytest.mark.parametrize("rule", THRESHOLD_NAMES)
def test_every_threshold_rule_has_words_and_a_required_sensitivity_replaces_it(rule: str) -> None:
    assert threshold_rule(rule, None)
    assert threshold_rule(rule, 0.95) == "a sensitivity of at least 0.95 in inner cross-validation"
