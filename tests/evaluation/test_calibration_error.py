"""The calibration error of perfectly calibrated predictions."""

from itertools import product

import numpy as np
import pytest

from mil_toolkit.evaluation.calibration_error import expected_if_calibrated
from mil_toolkit.evaluation.metrics import METRICS, Predicted


def test_the_expectation_is_the_mean_over_all_labels() -> None:
    probabilities = np.array([0.05, 0.31, 0.35, 0.39, 0.71, 0.74, 0.9])
    total = 0.0
    for labels in product((0, 1), repeat=7):
        chance = np.prod(np.where(np.array(labels) == 1, probabilities, 1 - probabilities))
        predicted = Predicted(np.array(labels), probabilities, probabilities >= 0.5, np.zeros(7))
        total += chance * float(METRICS["calibration_error"].of(predicted, np.ones(7)))
    assert expected_if_calibrated(probabilities[None]) == pytest.approx(total)


def test_repeats_are_averaged_and_certain_predictions_have_no_error() -> None:
    one, other = np.full((1, 4), 0.5), np.array([[0.0, 1.0, 1.0, 0.0]])
    assert expected_if_calibrated(other) == 0
    both = expected_if_calibrated(np.concatenate([one, other]))
    assert both == pytest.approx(expected_if_calibrated(one) / 2)


def test_more_patients_have_a_smaller_expected_error() -> None:
    random = np.random.default_rng(0)
    expected = [expected_if_calibrated(random.random((1, patients))) for patients in (90, 400)]
    assert 0.08 < expected[0] < 0.12 and expected[1] < expected[0] / 1.8
