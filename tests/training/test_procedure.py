"""The nested procedure: which epoch, which member for which patient, which seeds, and the refit."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit

from mil_toolkit.config import HeadConfig
from mil_toolkit.core.seeds import derive_seeds
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.training.curves import Curves, best_epoch, lead, smooth
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import predict
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit, run_again, run_trial

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=6, components=4, patience=6)
TRAINS = [np.arange(8), np.array([0, 1, 2, 3, 8, 9, 10, 11]), np.arange(4, 12)]


@pytest.fixture(name="inputs")
def _inputs(make_patients: MakePatients) -> Inputs:
    return Inputs(make_patients(), TRAINS)


def curves_of(logits: np.ndarray) -> Curves:
    """One epoch of one member that trained on nobody, over 20 patients of each class."""
    labels = np.arange(40) % 2
    return Curves(logits[None, None], np.array([0]), np.zeros((1, 40), dtype=bool), labels)


def surpasses(one: Curves, other: Curves, objective: str) -> bool:
    led, error = lead(one, other, objective)
    return led > error


@pytest.mark.parametrize("objective", ["balanced_log_loss", "auc"])
def test_a_lead_within_one_standard_error_is_none(objective: str) -> None:
    random = np.random.default_rng(0)
    plain = (2 * (np.arange(40) % 2) - 1) + random.normal(0, 1.5, 40)
    better = plain + 2 * (2 * (np.arange(40) % 2) - 1) * random.random(40)
    assert surpasses(curves_of(better), curves_of(plain), objective)
    assert not surpasses(curves_of(plain), curves_of(better), objective)
    assert not surpasses(curves_of(plain), curves_of(plain), objective)


def test_chance_leads_by_a_standard_error_once_in_six_times() -> None:
    random = np.random.default_rng(0)
    signal = 2 * (np.arange(40) % 2) - 1
    draws = [(curves_of(signal + noise) for noise in random.normal(0, 1.5, (2, 40))) for _ in range(200)]
    share = np.mean([surpasses(*pair, "balanced_log_loss") for pair in draws])
    assert 0.08 < share < 0.24


# The curve.


def test_smoothing_is_the_mean_of_three_epochs() -> None:
    assert smooth([1, 2, 6, 4]).tolist() == pytest.approx([1.5, 3, 4, 5])
    assert smooth([3]).tolist() == [3]


def test_the_best_epoch_is_that_of_the_smoothed_curve() -> None:
    spike_then_plateau = [0.0, 0.0, 5.0, 0.0, 4.0, 5.0, 4.0, 4.0]
    assert best_epoch(spike_then_plateau, higher_is_better=True) == 6
    assert best_epoch([-each for each in spike_then_plateau], higher_is_better=False) == 6
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


# Seeds.


def test_seeds_depend_on_the_whole_path() -> None:
    paths = [(0,), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0)]
    drawn = {tuple(derive_seeds(4, *path)) for path in paths}
    assert len(drawn) == len(paths)
    assert len({seed for each in drawn for seed in each}) == 4 * len(paths)
    assert derive_seeds(2, 3, 4) == derive_seeds(5, 3, 4)[:2]


# A trial.


def test_a_trials_value_is_the_objective_of_the_pooled_out_of_fold_logits(inputs: Inputs) -> None:
    told: list[tuple[int, float]] = []
    trial = run_trial(
        inputs,
        CONFIG,
        "balanced_log_loss",
        (0, 1),
        lambda curves, value: told.append((len(curves.logits), value)),
    )
    curve = [
        METRICS["balanced_log_loss"].score(*trial.curves.validation(epoch), 0.5) for epoch in range(1, 7)
    ]
    assert trial.value == pytest.approx(curve[trial.epoch - 1])
    assert trial.epoch == best_epoch(curve, higher_is_better=False)
    assert [epoch for epoch, _ in told] == list(range(1, 7))
    assert told[2][1] == pytest.approx((curve[1] + curve[2]) / 2)


def test_a_trial_stops_when_patience_ends(inputs: Inputs) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=0.0, weight_decay=0.0, epochs=50, patience=3)
    assert len(run_trial(inputs, config, "auc", (0,)).curves.logits) == 4


def test_what_is_told_of_an_epoch_may_end_the_trial(inputs: Inputs) -> None:
    def prune(curves: Curves, value: float) -> None:
        if len(curves.logits) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_trial(inputs, CONFIG, "auc", (0,), prune)


def test_a_trial_is_the_same_whenever_it_is_run(inputs: Inputs, make_patients: MakePatients) -> None:
    first = run_trial(inputs, CONFIG, "auc", (0, 7))
    run_trial(inputs, dataclasses.replace(CONFIG, components=0), "auc", (0, 8))
    again = run_trial(Inputs(make_patients(), TRAINS), CONFIG, "auc", (0, 7))
    other = run_trial(inputs, CONFIG, "auc", (0, 9))
    assert np.array_equal(first.curves.logits, again.curves.logits)
    assert not np.array_equal(first.curves.logits, other.curves.logits)


def test_labels_of_a_fold_do_not_move_its_out_of_fold_logits(make_patients: MakePatients) -> None:
    """Each patient is held out by one fold here, whose members may not have seen its label."""
    trains = [np.setdiff1d(np.arange(12), held_out) for held_out in np.arange(12).reshape(3, 4)]
    patients = make_patients()
    labels = patients.labels.copy()
    labels[:4] = 1 - labels[:4]
    one, other = (
        run_trial(Inputs(each, trains), CONFIG, "auc", (0,)).curves.out_of_fold(1)
        for each in (patients, dataclasses.replace(patients, labels=labels))
    )
    np.testing.assert_allclose(one[:4], other[:4], rtol=1e-4)
    assert not np.allclose(one[4:], other[4:], rtol=1e-3)


# The members of the choice, and the refit.


def test_running_again_averages_the_members_of_each_fold(inputs: Inputs) -> None:
    curves = run_again(inputs, CONFIG, epoch=2, members=2, seed=(0,))
    assert curves.logits.shape == (1, 6, 12)
    assert curves.folds.tolist() == [0, 0, 1, 1, 2, 2]
    expected = curves.logits[0, 2:4, 4:8].mean(0)  # patients 4 to 7 are those that fold 1 holds out
    np.testing.assert_allclose(curves.out_of_fold(1)[4:8], expected)


def test_held_out_attention_is_that_of_models_that_never_saw_the_patient(make_patients: MakePatients) -> None:
    trains = [np.setdiff1d(np.arange(12), held_out) for held_out in np.arange(12).reshape(3, 4)]
    patients = make_patients()
    labels = patients.labels.copy()
    labels[:4] = 1 - labels[:4]
    one, other = (
        run_again(Inputs(each, trains), CONFIG, epoch=3, members=2, seed=(0,)).attention
        for each in (patients, dataclasses.replace(patients, labels=labels))
    )
    assert one is not None and other is not None and patients.bags is not None
    sizes = patients.bags.sizes.tolist()
    shares = np.split(one, np.cumsum(sizes)[:-1])
    assert [len(share) for share in shares] == sizes
    np.testing.assert_allclose([share.sum() for share in shares], 1, rtol=1e-5)
    first = sum(sizes[:4])
    np.testing.assert_allclose(one[:first], other[:first], rtol=1e-4)
    assert not np.allclose(one[first:], other[first:], rtol=1e-4)


@pytest.mark.parametrize("components", [0, 4])
def test_a_refit_predicts_what_its_members_learnt(components: int, make_patients: MakePatients) -> None:
    patients, config = make_patients(), dataclasses.replace(CONFIG, components=components)
    head = refit(patients, config, epoch=3, members=2, seed=(5,))
    assert head.members == 2
    inputs = Inputs(patients, [np.arange(12)])
    trained = predict(head.model, inputs, [0, 0]).numpy()
    applied = head.apply(patients)
    np.testing.assert_allclose(applied.logits, trained, rtol=1e-3, atol=1e-4)
    assert patients.bags is not None and applied.attention is not None
    for share in torch.from_numpy(applied.attention).split(patients.bags.sizes.tolist()):
        assert share.sum().item() == pytest.approx(1, abs=1e-4)


def test_a_refit_without_images_has_no_projection(make_patients: MakePatients) -> None:
    head = refit(make_patients(images=False), CONFIG, epoch=1, members=1, seed=(5,))
    assert head.projection is None
    assert head.apply(make_patients(images=False)).attention is None


def test_patients_that_a_head_never_saw_are_predicted_one_by_one(make_patients: MakePatients) -> None:
    head = refit(make_patients(), CONFIG, epoch=1, members=2, seed=(5,))
    new = make_patients(count=40, seed=9)
    together = head.apply(new).logits
    for place in (0, 33):
        alone = head.apply(new.take(np.array([place]))).logits
        np.testing.assert_allclose(alone[:, 0], together[:, place], rtol=1e-4, atol=1e-5)
