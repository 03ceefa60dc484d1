"""The procedure of one search: trials, cross-fitted members, their seeds, and the refit."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.seeds import derive_seeds
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.training.curves import Curves, best_epoch
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import predict_logits
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=6, components=4, patience=6)
TRAINS = [np.arange(8), np.array([0, 1, 2, 3, 8, 9, 10, 11]), np.arange(4, 12)]


@pytest.fixture(name="inputs")
def _inputs(make_patients: MakePatients) -> Inputs:
    return Inputs(make_patients(), TRAINS)


# Seeds.


def test_seeds_depend_on_every_element_of_the_path() -> None:
    paths = [(0,), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0)]
    drawn = {tuple(derive_seeds(4, *path)) for path in paths}
    assert len(drawn) == len(paths)
    assert len({seed for seeds in drawn for seed in seeds}) == 4 * len(paths)
    assert derive_seeds(2, 3, 4) == derive_seeds(5, 3, 4)[:2]


# A trial.


def test_the_value_of_a_trial_is_the_objective_of_the_pooled_out_of_fold_logits(inputs: Inputs) -> None:
    reported: list[tuple[int, float]] = []
    trial = run_trial(
        inputs,
        CONFIG,
        "balanced_log_loss",
        (0, 1),
        lambda curves, value: reported.append((len(curves.logits), value)),
    )
    validation = [trial.curves.validation(epoch) for epoch in range(1, 7)]
    metric = METRICS["balanced_log_loss"]
    curve = [metric.score(predicted.labels, predicted.probabilities, 0.5) for predicted in validation]
    assert trial.value == pytest.approx(curve[trial.epoch - 1])
    assert trial.epoch == best_epoch(curve, higher_is_better=False)
    assert [epoch for epoch, _ in reported] == list(range(1, 7))
    assert reported[2][1] == pytest.approx((curve[1] + curve[2]) / 2)


def test_the_objective_auc_counts_pairs_within_inner_folds(inputs: Inputs) -> None:
    trial = run_trial(inputs, CONFIG, "auc", (0, 1))
    curves = trial.curves
    logits, wins = curves.out_of_fold(trial.epoch), list[float]()
    for fold in range(len(curves.trains_on)):
        inside = curves.held_by == fold
        for high in logits[inside & (curves.labels == 1)]:
            wins += ((high > logits[inside & (curves.labels == 0)]) + 0.0).tolist()
    assert trial.value == pytest.approx(np.mean(wins))


def test_a_trial_stops_after_patience_epochs_without_improvement(inputs: Inputs) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=0.0, weight_decay=0.0, epochs=50, patience=3)
    assert len(run_trial(inputs, config, "auc", (0,)).curves.logits) == 4


def test_an_exception_of_the_callback_ends_the_trial(inputs: Inputs) -> None:
    def prune(curves: Curves, value: float) -> None:
        if len(curves.logits) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_trial(inputs, CONFIG, "auc", (0,), prune)


def test_a_trial_does_not_depend_on_the_trials_before_it(inputs: Inputs, make_patients: MakePatients) -> None:
    first = run_trial(inputs, CONFIG, "auc", (0, 7))
    run_trial(inputs, dataclasses.replace(CONFIG, components=0), "auc", (0, 8))
    again = run_trial(Inputs(make_patients(), TRAINS), CONFIG, "auc", (0, 7))
    other = run_trial(inputs, CONFIG, "auc", (0, 9))
    assert np.array_equal(first.curves.logits, again.curves.logits)
    assert not np.array_equal(first.curves.logits, other.curves.logits)


def test_labels_of_held_out_patients_do_not_change_their_out_of_fold_logits(
    make_patients: MakePatients,
) -> None:
    """Each patient is held out by exactly one fold, whose members have not seen its label."""
    trains = [np.setdiff1d(np.arange(12), held_out) for held_out in np.arange(12).reshape(3, 4)]
    patients = make_patients()
    labels = patients.labels.copy()
    labels[:4] = 1 - labels[:4]
    one, other = (
        run_trial(Inputs(variant, trains), CONFIG, "auc", (0,)).curves.out_of_fold(1)
        for variant in (patients, dataclasses.replace(patients, labels=labels))
    )
    np.testing.assert_allclose(one[:4], other[:4], rtol=1e-4)
    assert not np.allclose(one[4:], other[4:], rtol=1e-3)


# Cross-fitted members, and the refit.


def test_cross_fitting_averages_the_members_of_each_fold(inputs: Inputs) -> None:
    curves = cross_fit_members(inputs, CONFIG, epoch=2, member_count=2, seed=(0,))
    assert curves.logits.shape == (1, 6, 12)
    assert curves.folds.tolist() == [0, 0, 1, 1, 2, 2]
    expected = curves.logits[0, 2:4, 4:8].mean(0)  # fold 1 holds out patients 4 to 7
    np.testing.assert_allclose(curves.out_of_fold(1)[4:8], expected)


def test_held_out_attention_comes_from_members_that_did_not_train_on_the_patient(
    make_patients: MakePatients,
) -> None:
    trains = [np.setdiff1d(np.arange(12), held_out) for held_out in np.arange(12).reshape(3, 4)]
    patients = make_patients()
    labels = patients.labels.copy()
    labels[:4] = 1 - labels[:4]
    one, other = (
        cross_fit_members(Inputs(variant, trains), CONFIG, epoch=3, member_count=2, seed=(0,)).attention
        for variant in (patients, dataclasses.replace(patients, labels=labels))
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
def test_a_refitted_head_predicts_like_its_members_in_training(
    components: int, make_patients: MakePatients
) -> None:
    patients, config = make_patients(), dataclasses.replace(CONFIG, components=components)
    head = refit(patients, config, epoch=3, member_count=2, seed=(5,))
    assert head.member_count == 2
    inputs = Inputs(patients, [np.arange(12)])
    trained = predict_logits(head.model, inputs, [0, 0]).numpy()
    applied = head.apply(patients)
    np.testing.assert_allclose(applied.logits, trained, rtol=1e-3, atol=1e-4)
    assert patients.bags is not None and applied.attention is not None
    for share in torch.from_numpy(applied.attention).split(patients.bags.sizes.tolist()):
        assert share.sum().item() == pytest.approx(1, abs=1e-4)
