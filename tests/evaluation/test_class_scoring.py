"""How members' predictions of several classes pool."""

import numpy as np
from numpy.testing import assert_allclose

from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.evaluation.class_scoring import of_mean_logits


def test_members_pool_to_the_prediction_of_their_mean_logits() -> None:
    logits = np.random.default_rng(0).normal(scale=2, size=(5, 7, 3))
    rule = ClassDecision(0.7, (0.5, -0.2, -0.3), (0.5, 0.3, 0.2), ("a", "b", "c"))
    pooled = of_mean_logits(rule.probabilities(logits))
    assert_allclose(pooled, rule.probabilities(logits.mean(0)), rtol=1e-12)


def test_of_two_classes_they_pool_as_binary_ones() -> None:
    from mil_toolkit.evaluation.scoring import BINARY

    positive = np.random.default_rng(0).uniform(0.01, 0.99, (4, 6))
    assert BINARY.pooled is not None
    pooled = of_mean_logits(np.stack([1 - positive, positive], axis=-1))
    assert_allclose(pooled[:, 1], BINARY.pooled(positive), rtol=1e-12)


def test_probabilities_of_almost_zero_leave_the_value_open() -> None:
    members = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]])
    assert np.isnan(of_mean_logits(members)).tolist() == [[False, False], [True, True]]
