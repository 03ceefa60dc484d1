"""Lockstep training against training one member at a time; what members may not see; predictions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.outcomes import OUTCOMES, with_outcome
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mil_toolkit.training.loop as training_module
from mil_toolkit.config.head import OPTIMIZER_NAMES, POOLING_NAMES, HeadConfig
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, predict_held_out, predict_logits, train
from mil_toolkit.training.patients import Patients

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=3, components=4)
TRAINS = [np.array([0, 1, 2, 3, 4, 5, 6, 7]), np.array([4, 5, 6, 7, 8, 9, 10, 11])]
MEMBERS = [Member(0, 10), Member(1, 20), Member(0, 30)]


def weights_after(inputs: Inputs, config: HeadConfig, members: Sequence[Member]) -> dict[str, Tensor]:
    *_, (model, _) = train(inputs, config, members, order_seed=5)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


# Lockstep.


@pytest.mark.parametrize(
    "changes",
    [
        *({"pooling": name} for name in POOLING_NAMES),
        *({"optimizer": name, "fusion": "concat"} for name in OPTIMIZER_NAMES),
        {"components": 0},
        {"components": 0, "standardise": False, "metadata_branch": "direct"},
        {"components": 0, "instance_dropout": 0.0, "pooling": "gated-attention"},
        {"image_branch": False},
        {"metadata_branch": "none", "class_weights": False},
        {"instance_layers": 2, "instance_width": 6},
        {"instance_layers": 1, "instance_width": 6, "components": 0, "pooling": "dsmil", "fusion": "concat"},
    ],
    ids=str,
)
def test_lockstep_training_equals_training_one_member_at_a_time(
    changes: dict[str, object], make_patients: MakePatients
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    inputs = Inputs(make_patients(), TRAINS)
    together = weights_after(inputs, config, MEMBERS)
    for k, member in enumerate(MEMBERS):
        alone = weights_after(inputs, config, [member])
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][k], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, {"fusion": "concat"}, {"components": 0}, {"image_branch": False}], ids=str
)
@pytest.mark.parametrize("name", OUTCOMES)
def test_lockstep_training_of_every_outcome_equals_training_one_member_at_a_time(
    name: str, changes: dict[str, object], make_patients: MakePatients
) -> None:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    inputs = Inputs(with_outcome(make_patients(), OUTCOMES[name]), TRAINS)
    together = weights_after(inputs, config, MEMBERS)
    for k, member in enumerate(MEMBERS):
        for parameter, value in weights_after(inputs, config, [member]).items():
            torch.testing.assert_close(value[0], together[parameter][k], rtol=1e-3, atol=1e-4)


def test_equal_seeds_give_identical_weights_and_other_seeds_do_not(make_patients: MakePatients) -> None:
    first, again = (weights_after(Inputs(make_patients(), TRAINS), CONFIG, MEMBERS) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image_classifier.weight"][0], first["image_classifier.weight"][2])


def test_training_lowers_the_loss_on_the_training_patients(make_patients: MakePatients) -> None:
    inputs = Inputs(make_patients(), [np.arange(12)])
    config = dataclasses.replace(CONFIG, epochs=30, learning_rate=0.02)
    losses = [
        functional.binary_cross_entropy_with_logits(
            predict_logits(model, inputs, [0])[0], torch.arange(12).remainder(2).float()
        ).item()
        for model, _ in train(inputs, config, [Member(0, 1)], 1)
    ]
    assert len(losses) == 30
    assert losses[-1] < 0.75 * losses[0]


# No waiting between device and host.


class OnlyOnTheDevice(TorchDispatchMode):
    """Fails if an operation uses a tensor that is not on the device, here torch's `meta`.

    Tensors on `meta` have no values, so operations that wait for one (`item`, `tolist`, `nonzero`) fail
    anyway.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, Tensor) or value.is_meta, func
        return result


@pytest.mark.parametrize(
    ("pooling", "components", "layers"),
    [*((name, components, 0) for name in POOLING_NAMES for components in (0, 4)), ("attention", 4, 2)],
)
def test_no_step_touches_the_host(
    pooling: str, components: int, layers: int, make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All random draws are made on the host, and copied, before the first step of an epoch."""
    changes = {"components": components, "instance_layers": layers, "logistic_start": False}
    config = dataclasses.replace(CONFIG, pooling=pooling, **changes)
    inputs, folds = Inputs(make_patients(), TRAINS, "meta"), [member.fold for member in MEMBERS]
    for model, _ in train(inputs, config, MEMBERS, 0):  # the first epoch computes what is then kept
        predict_held_out(model, inputs, folds)
    update = training_module.Population._update

    def watched(*args: Any) -> Tensor:
        with OnlyOnTheDevice():
            return update(*args)

    monkeypatch.setattr(training_module.Population, "_update", watched)
    for model, given in train(inputs, config, MEMBERS, 0):
        with OnlyOnTheDevice():
            assert predict_held_out(model, inputs, folds).is_meta and given.is_meta


# Held-out patients are not seen.


def with_held_out_changed(patients: Patients, train: np.ndarray) -> Patients:
    """Return the same patients, but change labels, metadata and embeddings of those outside `train`."""
    held_out = np.setdiff1d(np.arange(len(patients)), train)
    labels, metadata = patients.labels.copy(), patients.metadata.copy()
    labels[held_out] = 1 - labels[held_out]
    metadata.loc[metadata.index[held_out], "age"] += 500.0
    metadata.loc[metadata.index[held_out], "sex"] = "X"
    assert patients.bags is not None
    x = patients.bags.instances.clone()
    x[patients.bags.rows(torch.from_numpy(held_out))] *= -7
    return Patients(dataclasses.replace(patients.bags, instances=x), labels, metadata)


@pytest.mark.parametrize("components", [0, 4])
def test_held_out_patients_do_not_influence_a_member(components: int, make_patients: MakePatients) -> None:
    patients, config = make_patients(), dataclasses.replace(CONFIG, components=components)
    one = weights_after(Inputs(patients, TRAINS[:1]), config, MEMBERS[:1])
    changed = with_held_out_changed(patients, TRAINS[0])
    other = weights_after(Inputs(changed, TRAINS[:1]), config, MEMBERS[:1])
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)


def test_the_label_of_a_training_patient_influences_a_member(make_patients: MakePatients) -> None:
    patients = make_patients()
    labels = patients.labels.copy()
    labels[TRAINS[0][0]] = 1 - labels[TRAINS[0][0]]
    one = weights_after(Inputs(patients, TRAINS[:1]), CONFIG, MEMBERS[:1])
    changed = dataclasses.replace(patients, labels=labels)
    other = weights_after(Inputs(changed, TRAINS[:1]), CONFIG, MEMBERS[:1])
    assert not torch.allclose(one["image_classifier.weight"], other["image_classifier.weight"], atol=1e-3)


def test_a_batch_without_training_patients_does_not_change_the_member(make_patients: MakePatients) -> None:
    """A member with one training patient is updated only on its mini-batch, as if there were no others."""
    config = dataclasses.replace(CONFIG, batch_size=1, epochs=1, instance_dropout=0.0, components=0)
    config = dataclasses.replace(config, embedding_dropout=0.0, logistic_start=False, zero_start=False)
    patients, only = make_patients(), np.array([7])
    among = weights_after(Inputs(patients, [only]), config, MEMBERS[:1])
    alone = weights_after(Inputs(patients.take(only), [np.array([0])]), config, MEMBERS[:1])
    for name, value in among.items():
        torch.testing.assert_close(value, alone[name])


# Prediction.


def test_prediction_does_not_depend_on_the_batches(make_patients: MakePatients) -> None:
    inputs = Inputs(make_patients(), TRAINS)
    *_, (model, _) = train(inputs, CONFIG, MEMBERS, 0)
    folds = [member.fold for member in MEMBERS]
    logits = predict_logits(model, inputs, folds)
    assert logits.shape == (3, 12)
    model.config = dataclasses.replace(CONFIG, batch_size=5)
    torch.testing.assert_close(predict_logits(model, inputs, folds), logits)


@pytest.mark.parametrize("members", [MEMBERS, MEMBERS[1:2]], ids=["all folds", "one of two folds"])
@pytest.mark.parametrize("images", [True, False])
def test_each_member_predicts_the_patients_that_its_fold_holds_out(
    images: bool, members: Sequence[Member], make_patients: MakePatients
) -> None:
    inputs = Inputs(make_patients(images=images), TRAINS)
    *_, (model, _) = train(inputs, CONFIG, members, 0)
    folds = [member.fold for member in members]
    held_out = ~inputs.trains_on[folds]
    expected = predict_logits(model, inputs, folds) * held_out
    torch.testing.assert_close(predict_held_out(model, inputs, folds), expected)


def test_an_epoch_returns_the_logits_of_its_training_pass(make_patients: MakePatients) -> None:
    """Without dropout and with a learning rate of zero, they equal the predictions."""
    config = dataclasses.replace(CONFIG, learning_rate=0.0, embedding_dropout=0.0, instance_dropout=0.0)
    inputs = Inputs(make_patients(), TRAINS)
    *_, (model, given) = train(inputs, config, MEMBERS, 0)
    torch.testing.assert_close(given, predict_logits(model, inputs, [member.fold for member in MEMBERS]))


def test_bfloat16_changes_the_logits_less_than_another_seed_does(make_patients: MakePatients) -> None:
    config = dataclasses.replace(CONFIG, epochs=8, metadata_branch="mlp", zero_start=False)
    patients = make_patients()
    trains = [np.arange(12)] * 4

    def logits(dtype: torch.dtype, first: int) -> Tensor:
        inputs = Inputs(patients, trains, dtype=dtype)
        *_, (model, _) = train(inputs, config, [Member(fold, first + fold) for fold in range(4)], 0)
        return predict_logits(model, inputs, range(4))

    exact = logits(torch.float32, 0)
    rounding = (logits(torch.bfloat16, 0) - exact).std()
    seeds = (logits(torch.float32, 100) - exact).std()
    assert 0 < rounding < 0.1 * seeds
