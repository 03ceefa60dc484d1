"""Scores, spreads, comparisons and choices as text."""

import pytest

from mil_toolkit.config.study import THRESHOLD_NAMES, ThresholdRule
from mil_toolkit.evaluation.records import Comparison, Difference, PassedOver, Score, Spread
from mil_toolkit.evaluation.words import (
    LOWER_IS_BETTER,
    comparison_words,
    in_use,
    metric_title,
    p_value,
    passed_over_words,
    spread_words,
    threshold_rule,
)
from mil_toolkit.outcomes.kinds import KINDS

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
    ("kept", "words"),
    [
        (
            PassedOver(7, 0.0123, 0.02, critical=2.5, trials=49),
            (
                "its lead of 0.0123 in balanced log loss does not exceed 0.05, which the best of 49 equal"
                " trials exceeds by chance in about 5 % of searches (max-T test). In a small cohort the"
                " defaults are nearly always kept, because only a large improvement can be told from chance."
            ),
        ),
        (
            PassedOver(7, 0.0123, 0.02, critical=None, trials=49),
            (
                "its lead of 0.0123 in balanced log loss cannot be told from chance: there are too few"
                " patients or groups."
            ),
        ),
        (PassedOver(7, None, None), "its lead over the defaults could not be estimated."),
        (
            PassedOver(7, 0.0123, 0.02),
            (
                "when both were retrained with all members, it was better by only 0.0123 in balanced log"
                " loss, which does not exceed one standard error of the difference (0.02)."
            ),
        ),
        (PassedOver(7, -0.1, 0.02), "when both were retrained with all members, it was not better."),
    ],
    ids=["lead within chance", "too few patients", "undefined", "older version", "older version, worse"],
)
def test_the_trial_that_the_defaults_were_preferred_to_is_named(kept: PassedOver, words: str) -> None:
    text = passed_over_words(kept, "balanced_log_loss")
    assert text == f"The defaults were kept: trial 7 had the best value, but {words}"


def test_a_difference_of_numbers_has_no_discordant_patients() -> None:
    none = Comparison(None, {"mae": Difference(-0.5, -0.75, -0.25, p_value=0.0004)})
    assert comparison_words(none, "mae") == "-0.500 (-0.750 to -0.250), p <0.001."


def test_the_direction_of_a_metric_is_that_of_its_definition() -> None:
    scorings = [kind().scoring for kind in KINDS.values()]
    metrics = [pair for scoring in scorings for pair in scoring.metrics.items()]
    assert set(LOWER_IS_BETTER) == {name for name, metric in metrics if not metric.higher_is_better}
    assert metric_title("auc_pooled") == "AUC pooled" and metric_title("brier") == "Brier"


@pytest.mark.parametrize("rule", THRESHOLD_NAMES)
def test_every_threshold_rule_has_words_and_a_required_sensitivity_replaces_it(rule: str) -> None:
    assert threshold_rule(ThresholdRule(rule))
    words = threshold_rule(ThresholdRule(rule, 0.95))
    assert words.startswith("a sensitivity of at least 0.95 in inner cross-validation")
    assert "missed about half of the time" in words
    bound = threshold_rule(ThresholdRule(rule, 0.95, 0.9))
    assert bound.startswith("a lower 90 % confidence bound of the sensitivity of at least 0.95")
