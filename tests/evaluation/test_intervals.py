"""Scores with intervals and reliability curves, compared with formulas and scikit-learn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, t
from sklearn.calibration import calibration_curve
from support.tables import LABELS, make_table

from mil_toolkit.evaluation.intervals import Table, exact_interval, reliability, scores_with_intervals
from mil_toolkit.evaluation.metrics import METRICS


def as_one_model(table: Table) -> Table:
    return replace(table, folds=np.ones_like(table.folds))


def wilson_of(successes: int, count: int, patients: int) -> tuple[float, float]:
    """Return SciPy's interval of Wilson at the level whose normal quantile is Student's of all patients."""
    from scipy.stats import norm

    level = 2 * norm.cdf(t.ppf(0.975, patients - 1)) - 1
    interval = binomtest(successes, count).proportion_ci(level, method="wilson")
    return interval.low, interval.high


def test_a_score_is_the_mean_over_repeats() -> None:
    predictions = make_table(1.0)
    expected = np.mean([(row == LABELS).mean() for row in predictions.decisions])
    assert scores_with_intervals(predictions)["accuracy"].value == pytest.approx(expected)
    assert scores_with_intervals(predictions)["accuracy"].repeats == 2


def test_the_proportions_of_one_model_have_wilsons_interval() -> None:
    table = as_one_model(make_table(1.0, repeats=1))
    scores, decided = scores_with_intervals(table), table.decisions[0]
    counts = {
        "accuracy": (int((decided == LABELS).sum()), 65),
        "sensitivity": (int(decided[LABELS == 1].sum()), 40),
        "specificity": (int((~decided)[LABELS == 0].sum()), 25),
        "referred": (int(decided.sum()), 65),
        "ppv": (int(decided[LABELS == 1].sum()), int(decided.sum())),
        "npv": (int((~decided)[LABELS == 0].sum()), int((~decided).sum())),
    }
    for name, (successes, count) in counts.items():
        score = scores[name]
        assert score.value == pytest.approx(successes / count)
        assert (score.low, score.high) == pytest.approx(wilson_of(successes, count, 65), rel=0.02), name


def test_perfect_separation_leaves_room_for_errors_in_every_metric() -> None:
    scores = scores_with_intervals(make_table(9.0, repeats=1))
    for name in (
        "auc",
        "auc_pooled",
        "sensitivity",
        "specificity",
        "accuracy",
        "balanced_accuracy",
        "ppv",
        "npv",
    ):
        assert scores[name].value == scores[name].high == 1
        low = scores[name].low
        assert low is not None and 0.8 < low < 0.96, name
    for name in ("log_loss", "balanced_log_loss", "brier"):
        value, high = scores[name].value, scores[name].high
        assert value is not None and high is not None and high > value + 0.005


def test_a_single_error_in_one_of_three_repeats_does_not_narrow_the_interval_of_none() -> None:
    table = make_table(9.0, repeats=3)
    none = scores_with_intervals(table)["specificity"]
    decisions = table.decisions.copy()
    decisions[0, 50] = True
    one = scores_with_intervals(replace(table, decisions=decisions))["specificity"]
    assert none.low is not None and one.low is not None and one.value is not None
    assert one.value == pytest.approx(1 - 1 / 75) and 0 < none.low - one.low < 0.03
    assert one.high is not None and one.value < one.high < 1


@pytest.mark.parametrize("prevalence", [None, 0.1])
@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_interval_contains_its_score_and_has_a_width(
    seed: int, groups: int | None, prevalence: float | None
) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.random((2, 65)).round(seed)
    table = replace(
        make_table(1.0),
        labels=(random.random(65) < probabilities[0]).astype(int),
        probabilities=probabilities,
        decisions=probabilities >= 0.5,
        prevalence=prevalence,
        groups=None if groups is None else np.arange(65) // groups,
    )
    for name, score in scores_with_intervals(table).items():
        if name == "calibration_error":
            assert score.low is None and score.high is None
        else:
            assert score.low < score.high and score.low <= score.value <= score.high, name  # type: ignore[operator]


@pytest.mark.parametrize("decision", [True, False])
def test_constant_predictions_have_intervals_with_a_width(decision: bool) -> None:
    table = make_table(1.0)
    half = np.full_like(table.probabilities, 0.5)
    constant = replace(table, decisions=np.full_like(table.decisions, decision), probabilities=half)
    scores = scores_with_intervals(constant)
    undefined = "npv" if decision else "ppv"
    assert scores[undefined].value is scores[undefined].low is scores[undefined].high is None
    for name in set(METRICS) - {undefined, "calibration_error"}:
        low, high = scores[name].low, scores[name].high
        assert low is not None and high is not None and low < high, name


def test_only_cross_validation_widens_for_other_training_patients() -> None:
    table = make_table(1.0, repeats=1)
    crossed, single = scores_with_intervals(table), scores_with_intervals(as_one_model(table))
    for name in ("sensitivity", "auc_pooled", "log_loss"):
        widths = [(score.high or 0) - (score.low or 0) for score in (crossed[name], single[name])]
        assert 1.05 < widths[0] / widths[1] < 1.6


def test_a_subgroup_is_widened_as_the_patients_that_its_models_learned_from() -> None:
    table = make_table(1.0, repeats=1)
    everyone, some = table.select(table.patient_ids), table.select(table.patient_ids[::2])
    assert scores_with_intervals(everyone) == scores_with_intervals(table)
    alone = scores_with_intervals(replace(some, selected_from=None))["accuracy"]
    score = scores_with_intervals(some)["accuracy"]
    assert None not in (alone.low, alone.high, score.low, score.high)
    assert alone.low < score.low <= score.high < alone.high  # type: ignore[operator]


def test_groups_widen_the_intervals_of_patients_that_are_alike() -> None:
    table = make_table(1.0, repeats=1)
    order = np.argsort(table.probabilities[0] - LABELS, kind="stable")
    groups = np.empty(65, dtype=int)
    groups[order] = np.arange(65) // 5  # groups of patients with similar errors
    alone, grouped = scores_with_intervals(table), scores_with_intervals(replace(table, groups=groups))
    for name in set(METRICS) - {"calibration_error", "referred", "ppv", "npv"}:
        widths = [(score.high or 0) - (score.low or 0) for score in (grouped[name], alone[name])]
        assert widths[0] > 1.2 * widths[1], name


@pytest.mark.parametrize("name", ["balanced_accuracy", "auc", "log_loss"])
def test_the_interval_of_one_model_has_about_its_nominal_coverage(name: str) -> None:
    predictions = [as_one_model(make_table(1.0, seed=seed, repeats=1)) for seed in range(120)]
    truth = np.mean([table.score(METRICS[name]) for table in predictions])
    scores = [scores_with_intervals(table)[name] for table in predictions]
    hits = sum((score.low or 0) <= truth <= (score.high or 0) for score in scores)
    assert hits >= 106  # 114 are expected; fewer than 106 have a probability below 0.001


def test_folds_of_one_class_have_no_auc_but_all_other_metrics() -> None:
    rows = pd.DataFrame(
        {
            "repeat": 1,
            "fold": 1 + np.arange(20) // 10,
            "patient_id": [f"P{place:02d}" for place in range(20)],
            "label": np.arange(20) // 10,
            "probability": np.linspace(0.1, 0.9, 20),
            "prediction": np.arange(20) % 2,
        }
    )
    scores = scores_with_intervals(Table.of(rows))
    assert scores["auc"].value is scores["auc"].low is scores["auc"].high is None
    assert scores["auc_pooled"].low is not None and scores["balanced_accuracy"].low is not None


def test_the_calibration_error_stands_beside_its_expectation() -> None:
    scores = scores_with_intervals(make_table(1.0))
    assert scores["brier"].expected_if_calibrated is None
    expected = scores["calibration_error"].expected_if_calibrated
    assert expected is not None and 0 < expected < 0.2


def test_the_reliability_curve_agrees_with_scikit_learn_and_the_calibration_error() -> None:
    predictions = make_table(0.7, repeats=1)
    curve = reliability(predictions)
    shares, means = calibration_curve(LABELS, predictions.probabilities[0], n_bins=10)
    assert [point["share"] for point in curve] == pytest.approx(shares)
    assert [point["probability"] for point in curve] == pytest.approx(means)
    gaps = sum(point["patients"] * abs(point["share"] - point["probability"]) for point in curve) / 65
    assert gaps == pytest.approx(scores_with_intervals(predictions)["calibration_error"].value)
    for point in curve:
        assert point["from"] <= point["probability"] <= point["to"]
        assert point["low"] <= point["share"] <= point["high"] and point["low"] < point["high"]


def test_a_reliability_bin_has_wilsons_interval_of_its_patients_or_groups() -> None:
    table = make_table(9.0, repeats=2)
    curve = reliability(table)
    assert curve[0]["share"] == 0 and curve[-1]["share"] == 1
    assert curve[-1]["low"] == pytest.approx(wilson_of(40, 40, 65)[0])
    assert sum(point["patients"] for point in curve) == 65
    pairs = reliability(replace(table, groups=np.arange(65) // 2))
    assert pairs[-1]["low"] <= curve[-1]["low"]


def test_the_exact_interval_of_a_share_of_one_is_a_power() -> None:
    low, high = exact_interval(40, 40)
    assert low == pytest.approx(0.025 ** (1 / 40)) and high == 1
