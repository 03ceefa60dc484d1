"""Intervals, comparisons and reliability curves, compared with SciPy and scikit-learn."""

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
from mil_toolkit.evaluation.records import Difference

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


def test_a_table_sorts_patients_by_id_whatever_the_order_of_the_rows() -> None:
    predictions = table(1.0)
    assert predictions.patient_ids == tuple(f"P{place:03d}" for place in range(65))
    np.testing.assert_array_equal(predictions.labels, LABELS)
    assert predictions.probabilities.shape == (2, 65)


def test_a_resample_keeps_the_size_of_each_class() -> None:
    weights = draw_patients(LABELS, draws=50)
    assert (weights[:, LABELS == 1].sum(1) == 40).all()
    assert (weights[:, LABELS == 0].sum(1) == 25).all()


def test_a_score_is_the_mean_over_repeats() -> None:
    predictions = table(1.0)
    expected = np.mean([(row == LABELS).mean() for row in predictions.decisions])
    assert scores_with_intervals(predictions)["accuracy"].value == pytest.approx(expected)
    assert scores_with_intervals(predictions)["accuracy"].repeats == 2


def test_the_interval_agrees_with_scipys_bootstrap_within_classes() -> None:
    predictions = table(1.0, repeats=1)
    predictions = replace(predictions, folds=np.zeros_like(predictions.folds))
    positive, negative = (predictions.probabilities[0][label == LABELS] for label in (1, 0))

    def score(high: np.ndarray, low: np.ndarray) -> float:
        return float(roc_auc_score([1] * len(high) + [0] * len(low), np.concatenate([high, low])))

    options = {"method": "percentile", "vectorized": False, "n_resamples": 2000, "rng": 3}
    expected = bootstrap((positive, negative), score, **options).confidence_interval
    auc = scores_with_intervals(predictions)["auc"]
    assert (auc.low, auc.high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_a_share_of_one_has_an_exact_interval() -> None:
    predictions = table(9.0)
    scores = scores_with_intervals(predictions)
    assert scores["sensitivity"].value == 1
    assert scores["sensitivity"].low == pytest.approx(0.025 ** (1 / 40))
    assert scores["specificity"].low == exact_interval(25, 25)[0]
    assert scores["balanced_accuracy"].low == pytest.approx((0.025 ** (1 / 40) + 0.025 ** (1 / 25)) / 2)


def test_constant_predictions_have_exact_intervals() -> None:
    predictions = table(1.0)
    scores = scores_with_intervals(replace(predictions, decisions=np.ones_like(predictions.decisions)))
    assert (scores["accuracy"].low, scores["accuracy"].high) == exact_interval(40, 65)
    ends = zip(exact_interval(40, 40), exact_interval(0, 25), strict=True)
    balanced = scores["balanced_accuracy"]
    assert [balanced.low, balanced.high] == [pytest.approx(sum(pair) / 2) for pair in ends]


@pytest.mark.parametrize("seed", range(5))
def test_every_score_lies_within_its_interval(seed: int) -> None:
    random = np.random.default_rng(seed)
    predictions, probabilities = table(1.0, repeats=1), random.random(65)
    calibrated = replace(
        predictions,
        labels=(random.random(65) < probabilities).astype(int),
        probabilities=probabilities[None],
        decisions=probabilities[None] >= 0.5,
    )
    for name, score in scores_with_intervals(calibrated).items():
        if name == "calibration_error":
            assert score.low is None and score.high is None and score.value > 0
        else:
            assert score.low <= score.value <= score.high


def test_a_method_does_not_differ_from_itself() -> None:
    compared = compare(table(1.0), table(1.0))
    assert compared.discordant == 0
    for name, difference in compared.differences.items():
        end = None if name == "calibration_error" else 0
        assert difference == Difference(0, end, end, p_value=1)


def test_a_difference_is_that_of_the_scores_and_changes_sign_with_the_order() -> None:
    one, other = table(2.0), table(0.5, seed=7)
    forward, backward = compare(one, other).differences, compare(other, one).differences
    for name in METRICS:
        scores = [scores_with_intervals(method)[name].value for method in (one, other)]
        assert forward[name].value == pytest.approx(scores[0] - scores[1])
        if METRICS[name].resampled:
            assert forward[name].low == pytest.approx(-backward[name].high)
        assert forward[name].p_value == pytest.approx(backward[name].p_value)
    assert forward["auc"].low > 0 and forward["auc"].p_value < 0.01


def test_the_permutation_test_agrees_with_scipy() -> None:
    one, other = table(1.0, repeats=1), table(0.6, seed=5, repeats=1)
    correct = [(method.decisions[0] == LABELS).astype(float) for method in (one, other)]
    expected = permutation_test(
        correct, lambda x, y: x.mean() - y.mean(), permutation_type="samples", n_resamples=9999, rng=2
    )
    accuracy = compare(one, other).differences["accuracy"]
    assert accuracy.p_value == pytest.approx(expected.pvalue, abs=0.03)


def test_discordant_patients_have_different_predictions() -> None:
    one = table(1.0)
    decisions = one.decisions.copy()
    decisions[0, :3] ^= True
    assert compare(one, replace(one, decisions=decisions)).discordant == 1.5


def test_the_interval_has_about_its_nominal_coverage() -> None:
    truth = 0.8413  # sensitivity and specificity at a shift of one standard deviation
    hits = 0
    for seed in range(60):
        score = scores_with_intervals(table(1.0, seed=seed, repeats=1))["balanced_accuracy"]
        hits += score.low <= truth <= score.high
    assert hits >= 51


def test_optimism_is_inner_minus_outer_score_of_the_same_patients() -> None:
    outer = table(1.0, repeats=3)
    inner = table(1.5, seed=4, repeats=1)
    difference = optimism(inner, outer)["balanced_accuracy"]
    scores = [scores_with_intervals(part)["balanced_accuracy"].value for part in (inner, outer)]
    assert difference.value == pytest.approx(scores[0] - scores[1])
    assert difference.low < difference.value < difference.high


def test_the_reliability_curve_agrees_with_scikit_learn_and_the_calibration_error() -> None:
    predictions = table(0.7, repeats=1)
    curve = reliability(predictions)
    shares, means = calibration_curve(LABELS, predictions.probabilities[0], n_bins=10)
    assert [point["share"] for point in curve] == pytest.approx(shares)
    assert [point["probability"] for point in curve] == pytest.approx(means)
    gaps = sum(point["patients"] * abs(point["share"] - point["probability"]) for point in curve) / 65
    assert gaps == pytest.approx(scores_with_intervals(predictions)["calibration_error"].value)
    for point in curve:
        assert point["from"] <= point["probability"] <= point["to"]
        assert point["low"] <= point["share"] <= point["high"] and point["low"] < point["high"]


def test_a_reliability_bin_of_a_single_class_has_an_exact_interval() -> None:
    curve = reliability(table(9.0, repeats=2))
    assert curve[0]["share"] == 0 and curve[-1]["share"] == 1
    assert curve[-1]["low"] == exact_interval(40, 40)[0]
    assert sum(point["patients"] for point in curve) == 65


def test_selected_patients_keep_their_predictions() -> None:
    whole = table(1.0)
    part = whole.select(["P010", "P003"])
    np.testing.assert_array_equal(part.probabilities, whole.probabilities[:, [10, 3]])
    np.testing.assert_array_equal(part.labels, LABELS[[10, 3]])
