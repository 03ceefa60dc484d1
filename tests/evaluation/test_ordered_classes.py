"""Probabilities of ordered classes in numpy and in torch."""

import numpy as np
import torch
from scipy.special import expit

from mil_toolkit.evaluation import ordered_classes
from mil_toolkit.training import class_losses


def test_numpy_and_torch_agree() -> None:
    outputs = 5 * np.random.default_rng(0).normal(size=(2, 6, 4))
    found = ordered_classes.ordered_log_probabilities(outputs)
    expected = class_losses.ordered_log_probabilities(torch.from_numpy(outputs)).numpy()
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1)


def test_two_classes_have_the_probabilities_of_a_binary_outcome() -> None:
    outputs = np.linspace(-3, 3, 7)[:, None]
    found = np.exp(ordered_classes.ordered_log_probabilities(outputs))
    np.testing.assert_allclose(found[:, 1], expit(outputs[:, 0]))


def test_a_higher_first_output_moves_patients_to_higher_classes() -> None:
    outputs = np.stack([np.linspace(-4, 4, 9), np.full(9, 0.5), np.full(9, -1.0)], 1)
    mean_rank = np.exp(ordered_classes.ordered_log_probabilities(outputs)) @ np.arange(4)
    assert (np.diff(mean_rank) > 0).all()
