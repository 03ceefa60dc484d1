"""Intervals and comparisons of predictions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, permutation_test
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from mil_toolkit.evaluation.intervals import (
    Table,
    compare,
    draw_patients,
    exact_interval,
    optimism,
    reliability,
    scores_with_intervals,
)
from mil_toolkit.evaluation.metrics import METRICS

LABELS = np.repeat([1, 0], [40, 25])


def table(shift: float, seed: int = 0, repeats: int = 2) -> Table:
    random = np.random.default_rng(seed)
    frames = []
    for repeat in range(1, repeats + 1):
        probability = 1 / (1 + np.exp(-random.normal(shift * (2 * LABELS - 1), 1)))
        frames.append(
            pd.DataFrame(
                {
                    "repeat": repeat,
                    "fold": np.arange(65) % 5,
                    "patient_id": [f"P{place:03d}" for place in range(65)],
                    "label": LABELS,
                    "probability": probability,
                    "prediction": (probability >= 0.5).astype(int),
                }
            ).sample(frac=1, random_state=repeat)
        )
    return Table.of(pd.concat(frames))


def test_a_table_lines_patients_up_whatever_the_order_of_the_rows() -> None:
    found = table(1.0)
    assert found.patient_ids == tuple(f"P{place:03d}" for place in range(65))
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.probabilities.shape == (2, 65)


def test_a_draw_keeps_the_size_of_each_class() -> None:
    weights = draw_patients(LABELS, draws=50)
    assert (weights[:, LABELS == 1].sum(1) == 40).all()
    assert (weights[:, LABELS == 0].sum(1) == 25).all()


def test_a_score_is_the_mean_over_repeats() -> None:
    found = table(1.0)
    expected = np.mean([(row == LABELS).mean() for row in found.decisions])
    assert scores_with_intervals(found)["accuracy"]["value"] == pytest.approx(expected)
    assert scores_with_intervals(found)["accuracy"]["repeats"] == 2


def test_the_interval_is_scipys_bootstrap_within_classes() -> None:
    found = table(1.0, repeats=1)
    found = replace(found, folds=np.zeros_like(found.folds))
    positive, negative = (found.probabilities[0][label == LABELS] for label in (1, 0))

    def score(high: np.ndarray, low: np.ndarray) -> float:
        return float(roc_auc_score([1] * len(high) + [0] * len(low), np.concatenate([high, low])))

    options = {"method": "percentile", "vectorized": False, "n_resamples": 2000, "rng": 3}
    theirs = bootstrap((positive, negative), score, **options).confidence_interval
    ours = scores_with_intervals(found)["auc"]
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_a_proportion_without_errors_gets_an_exact_interval() -> None:
    found = table(9.0)
    scores = scores_with_intervals(found)
    assert scores["sensitivity"]["value"] == 1
    assert scores["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 40))
    assert scores["specificity"]["low"] == exact_interval(25, 25)[0]
    assert scores["balanced_accuracy"]["low"] == pytest.approx((0.025 ** (1 / 40) + 0.025 ** (1 / 25)) / 2)


def test_a_model_that_says_the_same_of_everyone_gets_exact_intervals_too() -> None:
    found = table(1.0)
    scores = scores_with_intervals(replace(found, decisions=np.ones_like(found.decisions)))
    assert (scores["accuracy"]["low"], scores["accuracy"]["high"]) == exact_interval(40, 65)
    ends = zip(exact_interval(40, 40), exact_interval(0, 25), strict=True)
    balanced = scores["balanced_accuracy"]
    assert (balanced["low"], balanced["high"]) == tuple(pytest.approx(sum(each) / 2) for each in ends)


@pytest.mark.parametrize("seed", range(5))
def test_no_score_lies_outside_its_interval(seed: int) -> None:
    random = np.random.default_rng(seed)
    found, probabilities = table(1.0, repeats=1), random.random(65)
    calibrated = replace(
        found,
        labels=(random.random(65) < probabilities).astype(int),
        probabilities=probabilities[None],
        decisions=probabilities[None] >= 0.5,
    )
    for name, score in scores_with_intervals(calibrated).items():
        if name == "calibration_error":
            assert score["low"] is None and score["high"] is None and score["value"] > 0
        else:
            assert score["low"] <= score["value"] <= score["high"]


def test_a_method_gains_nothing_over_itself() -> None:
    found = compare(table(1.0), table(1.0))
    assert found["discordant"] == 0
    for name, difference in found["differences"].items():
        end = None if name == "calibration_error" else 0
        assert difference == {"value": 0, "low": end, "high": end, "p_value": 1}


def test_a_gain_is_the_difference_of_the_scores_and_turns_with_the_methods() -> None:
    one, other = table(2.0), table(0.5, seed=7)
    forth, back = compare(one, other)["differences"], compare(other, one)["differences"]
    for name in METRICS:
        scores = [scores_with_intervals(each)[name]["value"] for each in (one, other)]
        assert forth[name]["value"] == pytest.approx(scores[0] - scores[1])
        if METRICS[name].resampled:
            assert forth[name]["low"] == pytest.approx(-back[name]["high"])
        assert forth[name]["p_value"] == pytest.approx(back[name]["p_value"])
    assert forth["auc"]["low"] > 0 and forth["auc"]["p_value"] < 0.01


def test_the_permutation_test_is_scipys() -> None:
    one, other = table(1.0, repeats=1), table(0.6, seed=5, repeats=1)
    right = [(each.decisions[0] == LABELS).astype(float) for each in (one, other)]
    theirs = permutation_test(
        right, lambda x, y: x.mean() - y.mean(), permutation_type="samples", n_resamples=9999, rng=2
    )
    ours = compare(one, other)["differences"]["accuracy"]
    assert ours["p_value"] == pytest.approx(theirs.pvalue, abs=0.03)


def test_discordant_patients_are_those_decided_differently() -> None:
    one = table(1.0)
    decisions = one.decisions.copy()
    decisions[0, :3] ^= True
    assert compare(one, replace(one, decisions=decisions))["discordant"] == 1.5


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.8413  # of a normal shift of one, sensitivity and specificity alike
    hits = 0
    for seed in range(60):
        score = scores_with_intervals(table(1.0, seed=seed, repeats=1))["balanced_accuracy"]
        hits += score["low"] <= truth <= score["high"]
    assert hits >= 51


def test_optimism_is_inner_minus_outer_on_the_same_patients() -> None:
    outer = table(1.0, repeats=3)
    inner = table(1.5, seed=4, repeats=1)
    found = optimism(inner, outer)["balanced_accuracy"]
    scores = [scores_with_intervals(each)["balanced_accuracy"]["value"] for each in (inner, outer)]
    assert found["value"] == pytest.approx(scores[0] - scores[1])
    assert found["low"] < found["value"] < found["high"]


def test_the_reliability_curve_is_scikit_learns_and_its_gaps_the_calibration_error() -> None:
    found = table(0.7, repeats=1)
    curve = reliability(found)
    shares, means = calibration_curve(LABELS, found.probabilities[0], n_bins=10)
    assert [each["share"] for each in curve] == pytest.approx(shares)
    assert [each["probability"] for each in curve] == pytest.approx(means)
    gaps = sum(each["patients"] * abs(each["share"] - each["probability"]) for each in curve) / 65
    assert gaps == pytest.approx(scores_with_intervals(found)["calibration_error"]["value"])
    for each in curve:
        assert each["from"] <= each["probability"] <= each["to"]
        assert each["low"] <= each["share"] <= each["high"] and each["low"] < each["high"]


def test_a_bin_of_the_reliability_curve_without_errors_has_an_exact_interval() -> None:
    curve = reliability(table(9.0, repeats=2))
    assert curve[0]["share"] == 0 and curve[-1]["share"] == 1
    assert curve[-1]["low"] == exact_interval(40, 40)[0]
    assert sum(each["patients"] for each in curve) == 65


def test_a_part_of_a_table_keeps_each_patients_predictions() -> None:
    whole = table(1.0)
    part = whole.select(["P010", "P003"])
    np.testing.assert_array_equal(part.probabilities, whole.probabilities[:, [10, 3]])
    np.testing.assert_array_equal(part.labels, LABELS[[10, 3]])
