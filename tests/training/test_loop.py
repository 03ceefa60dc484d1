"""Lockstep training against one member at a time, the optimizer against torch's, and what may not be seen."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mil_toolkit.model.layers as members_module
import mil_toolkit.training.loop as training_module
import mil_toolkit.training.losses as losses_module
from mil_toolkit.config import OPTIMIZER_NAMES, POOLING_NAMES, HeadConfig
from mil_toolkit.model.head import Logits, MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.model.poolings import Instances
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, predict, predict_held_out, train
from mil_toolkit.training.losses import drop_instances, member_losses, patient_weights
from mil_toolkit.training.optimizer import Optimizer
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
    ],
    ids=str,
)
def test_lockstep_is_training_the_members_one_at_a_time(
    changes: dict[str, object], make_patients: MakePatients
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    inputs = Inputs(make_patients(), TRAINS)
    together = weights_after(inputs, config, MEMBERS)
    for k, member in enumerate(MEMBERS):
        alone = weights_after(inputs, config, [member])
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][k], rtol=1e-3, atol=1e-4)


def test_the_same_seeds_give_the_same_bits_and_others_do_not(make_patients: MakePatients) -> None:
    first, again = (weights_after(Inputs(make_patients(), TRAINS), CONFIG, MEMBERS) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image_classifier.weight"][0], first["image_classifier.weight"][2])


def test_training_lowers_the_loss_on_the_training_patients(make_patients: MakePatients) -> None:
    inputs = Inputs(make_patients(), [np.arange(12)])
    config = dataclasses.replace(CONFIG, epochs=30, learning_rate=0.02)
    losses = [
        functional.binary_cross_entropy_with_logits(
            predict(model, inputs, [0])[0], torch.arange(12).remainder(2).float()
        ).item()
        for model, _ in train(inputs, config, [Member(0, 1)], 1)
    ]
    assert len(losses) == 30
    assert losses[-1] < 0.75 * losses[0]


# What a device need not wait for.


class OfTheDevice(TorchDispatchMode):
    """Lets no operation see a tensor that does not lie on the device, here torch's `meta`.

    That one holds no values: whatever would wait for one (`item`, `tolist`, `nonzero`) fails on it by itself.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, result)):
            assert not isinstance(each, Tensor) or each.is_meta, func
        return result


@pytest.mark.parametrize("pooling", POOLING_NAMES)
@pytest.mark.parametrize("components", [0, 4])
def test_no_step_touches_the_host(
    components: int, pooling: str, make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(members: Sequence[object], *shape: int) -> Tensor:
        return torch.empty(len(members), *shape, device="meta")

    for module in (members_module, losses_module):
        monkeypatch.setattr(module, "draw", drawn)
    monkeypatch.setattr(training_module, "generators", lambda seeds, device: generators(seeds))
    config = dataclasses.replace(CONFIG, pooling=pooling, components=components, logistic_start=False)
    inputs, folds = Inputs(make_patients(), TRAINS, "meta"), [member.fold for member in MEMBERS]
    for model, _ in train(inputs, config, MEMBERS, 0):  # what lasts for a search is made by its first epoch
        predict_held_out(model, inputs, folds)
    take = training_module._Population._take

    def watched(*args: Any) -> Tensor:
        with OfTheDevice():
            return take(*args)

    monkeypatch.setattr(training_module._Population, "_take", watched)
    for model, given in train(inputs, config, MEMBERS, 0):
        with OfTheDevice():
            assert predict_held_out(model, inputs, folds).is_meta and given.is_meta


# What may not be seen.


def with_held_out_changed(patients: Patients, train: np.ndarray) -> Patients:
    """The same patients, those outside `train` with other labels, metadata and embeddings."""
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
def test_nothing_of_a_held_out_patient_moves_a_member(components: int, make_patients: MakePatients) -> None:
    patients, config = make_patients(), dataclasses.replace(CONFIG, components=components)
    one = weights_after(Inputs(patients, TRAINS[:1]), config, MEMBERS[:1])
    changed = with_held_out_changed(patients, TRAINS[0])
    other = weights_after(Inputs(changed, TRAINS[:1]), config, MEMBERS[:1])
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)


def test_a_label_of_a_training_patient_does_move_it(make_patients: MakePatients) -> None:
    patients = make_patients()
    labels = patients.labels.copy()
    labels[TRAINS[0][0]] = 1 - labels[TRAINS[0][0]]
    one = weights_after(Inputs(patients, TRAINS[:1]), CONFIG, MEMBERS[:1])
    changed = dataclasses.replace(patients, labels=labels)
    other = weights_after(Inputs(changed, TRAINS[:1]), CONFIG, MEMBERS[:1])
    assert not torch.allclose(one["image_classifier.weight"], other["image_classifier.weight"], atol=1e-3)


def test_a_batch_without_training_patients_leaves_the_member_as_it_was(make_patients: MakePatients) -> None:
    """A member with one training patient moves in the one mini-batch that holds it, and as if there were no other."""
    config = dataclasses.replace(CONFIG, batch_size=1, epochs=1, instance_dropout=0.0, components=0)
    config = dataclasses.replace(config, embedding_dropout=0.0, logistic_start=False, zero_start=False)
    patients, only = make_patients(), np.array([7])
    among = weights_after(Inputs(patients, [only]), config, MEMBERS[:1])
    alone = weights_after(Inputs(patients.take(only), [np.array([0])]), config, MEMBERS[:1])
    for name, value in among.items():
        torch.testing.assert_close(value, alone[name])


# The loss.


def test_class_weights_give_both_classes_the_same_total(make_patients: MakePatients) -> None:
    patients = dataclasses.replace(make_patients(), labels=np.array([1] * 9 + [0] * 3))
    inputs = Inputs(patients, [np.array([0, 1, 2, 3, 9, 10]), np.array([5, 6, 9, 10, 11])])
    weights = patient_weights(inputs, CONFIG)
    labels = torch.from_numpy(patients.labels)
    torch.testing.assert_close(weights[:, labels == 1].sum(1), weights[:, labels == 0].sum(1))
    torch.testing.assert_close(weights.sum(1), torch.tensor([6.0, 5.0]))
    assert torch.equal(weights > 0, inputs.trains_on)
    unweighted = patient_weights(inputs, dataclasses.replace(CONFIG, class_weights=False))
    assert torch.equal(unweighted, inputs.trains_on.float())


def test_the_loss_is_the_mean_over_a_members_own_patients() -> None:
    logits, labels = torch.randn(2, 3), torch.tensor([1.0, 0.0, 1.0])
    weights = torch.tensor([[0.5, 0.0, 1.5], [0.0, 0.0, 0.0]])
    loss = member_losses(Logits(logits), labels, weights, CONFIG)
    expected = (0.5 * functional.softplus(-logits[0, 0]) + 1.5 * functional.softplus(-logits[0, 2])) / 2
    torch.testing.assert_close(loss, torch.stack([expected, torch.tensor(0.0)]))


def test_late_fusion_adds_the_branches_own_losses() -> None:
    image, metadata = torch.randn(1, 3), torch.randn(1, 3)
    labels, weights = torch.tensor([1.0, 0.0, 1.0]), torch.ones(1, 3)
    config = dataclasses.replace(CONFIG, auxiliary=0.3)

    def loss(*logits: Tensor) -> Tensor:
        return member_losses(Logits(*logits), labels, weights, config)

    expected = loss(image + metadata) + 0.3 * (loss(image) + loss(metadata))
    torch.testing.assert_close(loss(image + metadata, image, metadata), expected)


# Dropout of instances.


def test_instance_dropout_leaves_its_share_and_never_empties_a_bag() -> None:
    sizes = torch.tensor([1, 1000, 2, 1])
    kept = drop_instances(sizes.tolist(), 0.9, generators([1, 2]))
    assert kept[:, 1:1001].float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert all(part.any(1).all() for part in kept.split(sizes.tolist(), 1))
    assert not torch.equal(kept[0], kept[1])


def test_the_instance_that_is_spared_is_drawn_evenly() -> None:
    kept = drop_instances([3] * 4000, 1 - 1e-9, generators([1, 2]))
    shares = kept[0].view(4000, 3).float().mean(0)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


# The optimizer.


@pytest.mark.parametrize(
    ("name", "momentum", "reference", "arguments"),
    [
        ("sgd", 0.0, torch.optim.SGD, {}),
        ("sgd", 0.9, torch.optim.SGD, {"momentum": 0.9}),
        ("adam", 0.9, torch.optim.Adam, {}),
        ("adamw", 0.9, torch.optim.AdamW, {}),
    ],
)
def test_the_optimizer_is_that_of_torch(
    name: str, momentum: float, reference: type[torch.optim.Optimizer], arguments: dict[str, float]
) -> None:
    config = dataclasses.replace(CONFIG, optimizer=name, momentum=momentum, weight_decay=0.1)
    ours, theirs = small_model(), small_model()
    optimizer = Optimizer(ours, config)
    expected = reference(theirs.parameters(), lr=1.0, weight_decay=0.1, **arguments)  # type: ignore[call-arg]
    for step in range(5):
        rate = 0.01 * 0.8**step
        optimizer.step(loss_of(ours, step), rate, [True, True])
        loss_of(theirs, step).backward()
        expected.param_groups[0]["lr"] = rate
        expected.step()
        expected.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_an_inactive_member_keeps_everything(name: str) -> None:
    """Member 1 sits out the steps in between: it ends where it would if they had never been."""
    config = dataclasses.replace(CONFIG, optimizer=name)
    paused, short = small_model(), small_model()
    optimizers = Optimizer(paused, config), Optimizer(short, config)
    for step in range(6):
        optimizers[0].step(loss_of(paused, step), 0.01, [True, step % 2 == 0])
        if step % 2 == 0:
            optimizers[1].step(loss_of(short, step), 0.01, [True, True])
    for one, other in zip(paused.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
        assert not torch.equal(one[0], other[0])


def small_model() -> nn.Module:
    return MILModel(dataclasses.replace(CONFIG, zero_start=False), 4, 3, generators([1, 2]))


def loss_of(model: nn.Module, step: int) -> Tensor:
    random = torch.Generator().manual_seed(step)
    bags = Instances.of(torch.randn(2, 6, 4, generator=random), torch.tensor([2, 4]), 2)
    logits: Logits = model(bags, torch.randn(2, 2, 3, generator=random))
    return member_losses(logits, torch.tensor([0.0, 1.0]), torch.ones(2, 2), CONFIG).sum()


# Prediction.


def test_prediction_does_not_depend_on_the_batches(make_patients: MakePatients) -> None:
    inputs = Inputs(make_patients(), TRAINS)
    *_, (model, _) = train(inputs, CONFIG, MEMBERS, 0)
    folds = [member.fold for member in MEMBERS]
    logits = predict(model, inputs, folds)
    assert logits.shape == (3, 12)
    model.config = dataclasses.replace(CONFIG, batch_size=5)
    torch.testing.assert_close(predict(model, inputs, folds), logits)


@pytest.mark.parametrize("members", [MEMBERS, MEMBERS[1:2]], ids=["all folds", "one of two folds"])
@pytest.mark.parametrize("images", [True, False])
def test_each_member_predicts_what_its_fold_holds_out(
    images: bool, members: Sequence[Member], make_patients: MakePatients
) -> None:
    inputs = Inputs(make_patients(images=images), TRAINS)
    *_, (model, _) = train(inputs, CONFIG, members, 0)
    folds = [member.fold for member in members]
    held_out = ~inputs.trains_on[folds]
    expected = predict(model, inputs, folds) * held_out
    torch.testing.assert_close(predict_held_out(model, inputs, folds), expected)


def test_the_training_pass_tells_its_logits(make_patients: MakePatients) -> None:
    """Without dropout and with a model that does not move they are those of prediction."""
    config = dataclasses.replace(CONFIG, learning_rate=0.0, embedding_dropout=0.0, instance_dropout=0.0)
    inputs = Inputs(make_patients(), TRAINS)
    *_, (model, given) = train(inputs, config, MEMBERS, 0)
    torch.testing.assert_close(given, predict(model, inputs, [member.fold for member in MEMBERS]))


def test_bfloat16_moves_the_logits_less_than_another_seed_does(make_patients: MakePatients) -> None:
    config = dataclasses.replace(CONFIG, epochs=8, metadata_branch="mlp", zero_start=False)
    patients = make_patients()
    trains = [np.arange(12)] * 4

    def logits(dtype: torch.dtype, first: int) -> Tensor:
        inputs = Inputs(patients, trains, dtype=dtype)
        *_, (model, _) = train(inputs, config, [Member(fold, first + fold) for fold in range(4)], 0)
        return predict(model, inputs, range(4))

    exact = logits(torch.float32, 0)
    rounding = (logits(torch.bfloat16, 0) - exact).std()
    seeds = (logits(torch.float32, 100) - exact).std()
    assert 0 < rounding < 0.1 * seeds
