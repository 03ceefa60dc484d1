"""The verdict: by the primary metric, against the stronger of the baselines on the metadata."""

from dataclasses import replace

import pytest

from mil_toolkit.evaluation.records import Comparison, Difference, Score, Scores
from mil_toolkit.study.records import StudyScores
from mil_toolkit.study.verdict import stronger_metadata_baseline, verdict

SEARCHED, FIXED = "metadata_logistic", "metadata_logistic_c1"


def scores(**values: float | None) -> Scores:
    return {
        name: Score(
            value, None if value is None else value - 0.1, None if value is None else value + 0.1, 90, 1
        )
        for name, value in values.items()
    }


def gain(low: float, high: float, discordant: float = 20) -> Comparison:
    difference = Difference((low + high) / 2, low, high, 0.01)
    return Comparison(discordant, dict.fromkeys(("balanced_accuracy", "log_loss", "auc"), difference))


def study(searched: float | None, fixed: float | None, gains: dict[str, Comparison]) -> StudyScores:
    """Return scores in which both metrics of a baseline have the same value."""
    rivals = {
        name: scores(balanced_accuracy=value, log_loss=value, auc=value)
        for name, value in {SEARCHED: searched, FIXED: fixed, "bag_size": 0.99}.items()
    }
    outer = scores(balanced_accuracy=0.9, log_loss=0.3, auc=0.95)
    return StudyScores(epoch=3, training=None, inner=outer, outer=outer, rivals=rivals, gains=gains)


@pytest.mark.parametrize(
    ("metric", "searched", "fixed", "stronger"),
    [
        ("balanced_accuracy", 0.8, 0.85, FIXED),
        ("balanced_accuracy", 0.85, 0.8, SEARCHED),
        ("log_loss", 0.5, 0.4, FIXED),
        ("log_loss", 0.4, 0.5, SEARCHED),
        ("auc", 0.8, 0.8, SEARCHED),
        ("auc", None, 0.8, FIXED),
        ("auc", None, None, SEARCHED),
    ],
)
def test_the_stronger_baseline_has_the_better_outer_score_in_the_primary_metric(
    metric: str, searched: float | None, fixed: float | None, stronger: str
) -> None:
    assert stronger_metadata_baseline(study(searched, fixed, {}), metric) == stronger


def test_the_verdict_rests_on_the_stronger_baseline() -> None:
    """The gain over the weaker one alone would look like evidence."""
    gains = {SEARCHED: gain(0.01, 0.11), FIXED: gain(-0.01, 0.06)}
    text = verdict(study(0.8, 0.85, gains), "balanced_accuracy")
    assert "does not show that the images help" in text and "C = 1" in text and "+0.025" in text
    other = verdict(study(0.85, 0.8, gains), "balanced_accuracy")
    assert "the interval lies above zero" in other and "C searched" in other and "+0.060" in other


@pytest.mark.parametrize(
    ("low", "high", "metric", "words"),
    [
        (0.01, 0.1, "balanced_accuracy", "the interval lies above zero."),
        (-0.1, -0.01, "balanced_accuracy", "the metadata alone predict better"),
        (-0.1, 0.1, "balanced_accuracy", "does not show that the images help"),
        (-0.1, -0.01, "log_loss", "(lower is better); the interval lies below zero."),
        (0.01, 0.1, "log_loss", "the metadata alone predict better"),
        (-0.1, 0.1, "log_loss", "does not show that the images help"),
    ],
)
def test_the_direction_of_the_metric_counts(low: float, high: float, metric: str, words: str) -> None:
    text = verdict(study(0.8, 0.7, dict.fromkeys((SEARCHED, FIXED), gain(low, high))), metric)
    assert words in text and metric.replace("_", " ") in text


def test_few_discordant_patients_are_mentioned() -> None:
    few = dict.fromkeys((SEARCHED, FIXED), gain(0.01, 0.1, discordant=4))
    assert "few patients are decided differently" in verdict(study(0.8, 0.7, few), "auc")


def test_a_study_of_an_older_version_has_one_baseline_on_the_metadata() -> None:
    both = study(0.8, 0.9, {SEARCHED: gain(0.01, 0.1)})
    older = replace(both, rivals={SEARCHED: (both.rivals or {})[SEARCHED]})
    text = verdict(older, "balanced_accuracy")
    assert "The gain over metadata only is +0.055" in text and "stronger" not in text


def test_without_metadata_or_outer_folds_there_is_less_to_say() -> None:
    text = verdict(replace(study(0.8, 0.9, {}), rivals={}, gains={}), "auc")
    assert text == (
        "On held-out patients (nested cross-validation), the procedure reaches an AUC of"
        " 0.950 (0.850 to 1.050)."
    )
    assert "no score on held-out patients" in verdict(replace(study(0.8, 0.9, {}), outer=None), "auc")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("concordance_harrell", "a Harrell's C of"),
        ("concordance_uno", "an Uno's C of"),
        ("integrated_brier", "an integrated Brier score of"),
        ("mae", "an MAE of"),
        ("macro_f1", "a macro F1 of"),
        ("r2", "an R2 of"),
    ],
)
def test_the_article_fits_the_metric(metric: str, words: str) -> None:
    scores = study(0.8, 0.9, {})
    outer = {metric: (scores.outer or {})["auc"]}
    assert f"reaches {words} 0.950" in verdict(replace(scores, outer=outer, rivals={}, gains={}), metric)
