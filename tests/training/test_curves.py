"""Curves of out-of-fold logits, and the choices made from them."""

import numpy as np
import pytest
from scipy.special import expit

from mil_toolkit.training.curves import Curves, best_epoch, lead, smooth


def curves_of(logits: np.ndarray) -> Curves:
    """Return one epoch of one member that trained on no patient, for 20 patients of each class."""
    labels = np.arange(40) % 2
    return Curves(logits[None, None], np.array([0]), np.zeros((1, 40), dtype=bool), labels)


def surpasses(one: Curves, other: Curves, objective: str) -> bool:
    difference, error = lead(one, other, objective)
    return difference > error


@pytest.mark.parametrize("objective", ["balanced_log_loss", "auc"])
def test_a_lead_has_to_exceed_one_standard_error(objective: str) -> None:
    random = np.random.default_rng(0)
    plain = (2 * (np.arange(40) % 2) - 1) + random.normal(0, 1.5, 40)
    better = plain + 2 * (2 * (np.arange(40) % 2) - 1) * random.random(40)
    assert surpasses(curves_of(better), curves_of(plain), objective)
    assert not surpasses(curves_of(plain), curves_of(better), objective)
    assert not surpasses(curves_of(plain), curves_of(plain), objective)


def test_chance_leads_by_a_standard_error_in_one_of_six_cases() -> None:
    random = np.random.default_rng(0)
    signal = 2 * (np.arange(40) % 2) - 1
    pairs = (random.normal(0, 1.5, (2, 40)) for _ in range(200))
    share = np.mean(
        [
            surpasses(curves_of(signal + one), curves_of(signal + other), "balanced_log_loss")
            for one, other in pairs
        ]
    )
    assert 0.08 < share < 0.24


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
    labels, probabilities = curves.validation(1)
    assert labels.tolist() == [0, 1, 0]
    assert probabilities.tolist() == pytest.approx(expit(out[1:]).tolist())
    labels, probabilities = curves.training(1)
    assert labels.tolist() == [1, 1, 0, 1, 1, 0, 1, 0]
    assert probabilities.tolist() == pytest.approx(expit(np.array([1, 4, 8, 3, 12, 24, 5, 10.0])).tolist())


def test_extreme_logits_become_probabilities_without_a_warning() -> None:
    assert expit(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
