"""Curves of out-of-fold logits, and the choices made from them."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from mil_toolkit.training.curves import Curves, best_epoch, best_epoch_of, smooth


def test_pairs_of_patients_count_within_inner_folds_only() -> None:
    """Each fold orders its patients rightly, on a scale of its own."""
    labels = np.array([1, 0, 1, 0])
    logits = np.array([[[0.0, 0, 5, 4], [2, 1, 0, 0]]])
    trains_on = np.array([[True, True, False, False], [False, False, True, True]])
    curves = Curves(logits, np.array([0, 1]), trains_on, labels)
    assert curves.objective("auc", 1) == 1.0
    assert curves.objective("auc_pooled", 1) == 0.75
    assert best_epoch_of(curves, "auc") == 1


def test_the_best_epoch_of_curves_is_that_of_the_smoothed_objective() -> None:
    random = np.random.default_rng(0)
    labels, epochs = np.arange(40) % 2, 12
    logits = random.normal(0, 1, (epochs, 1, 40)) + np.sin(np.arange(epochs))[:, None, None] * (
        2 * labels - 1
    )
    curves = Curves(logits, np.array([0]), np.zeros((1, 40), dtype=bool), labels)
    losses = [log_loss(labels, expit(logits[epoch, 0])) for epoch in range(epochs)]
    assert best_epoch_of(curves, "log_loss") == best_epoch(losses, higher_is_better=False)


def test_smoothing_averages_three_epochs() -> None:
    assert smooth([1, 2, 6, 4]).tolist() == pytest.approx([1.5, 3, 4, 5])
    assert smooth([3]).tolist() == [3]


def test_the_best_epoch_is_the_optimum_of_the_smoothed_curve() -> None:
    spike_then_plateau = [0.0, 0.0, 5.0, 0.0, 4.0, 5.0, 4.0, 4.0]
    assert best_epoch(spike_then_plateau, higher_is_better=True) == 6
    assert best_epoch([-value for value in spike_then_plateau], higher_is_better=False) == 6
    assert best_epoch([1.0, 1.0, 1.0], higher_is_better=True) == 1


def test_out_of_fold_logits_come_from_members_that_did_not_train_on_the_patient() -> None:
    trains_on = np.array([[True, False, True, True], [True, True, False, False]])
    folds = np.array([0, 0, 1])
    logits = np.array([[[1.0, 2, 4, 8], [3, 6, 12, 24], [5, 10, 20, 40]]])
    curves = Curves(logits, folds, trains_on, np.array([1, 0, 1, 0]))
    out = curves.out_of_fold(1)
    assert np.isnan(out[0])
    assert out[1:].tolist() == [4.0, 20.0, 40.0]
    assert curves.held_out.tolist() == [False, True, True, True]
    validation = curves.validation(1)
    assert validation.labels.tolist() == [0, 1, 0]
    assert validation.probabilities.tolist() == pytest.approx(expit(out[1:]).tolist())
    assert validation.folds.tolist() == [0, 1, 1]
    training = curves.training(1)
    assert training.labels.tolist() == [1, 1, 0, 1, 1, 0, 1, 0]
    expected = expit(np.array([1, 4, 8, 3, 12, 24, 5, 10.0]))
    assert training.probabilities.tolist() == pytest.approx(expected.tolist())
    assert training.folds.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_extreme_logits_become_probabilities_without_a_warning() -> None:
    assert expit(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
