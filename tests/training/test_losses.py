"""Losses, patient weights and instance dropout against their definitions."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.head import Logits
from mil_toolkit.model.layers import draw, generators
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.training import losses
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.losses import drop_instances, member_losses, patient_weights
from mil_toolkit.training.patients import Patients

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig()


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


def test_class_weights_give_all_of_several_classes_the_same_total(make_patients: MakePatients) -> None:
    labels, outcome = np.array([0, 1, 2, 1] * 3), Classes("DX", ("a", "b", "c"))
    patients = dataclasses.replace(make_patients(), labels=labels, outcome=outcome)
    inputs = Inputs(patients, [np.arange(12), np.array([0, 1, 2, 3, 5])])
    weights = patient_weights(inputs, CONFIG)
    for label in range(3):
        total = weights[:, torch.from_numpy(labels == label)].sum(1)
        torch.testing.assert_close(total, torch.tensor([12.0, 5.0]) / 3)
    assert torch.equal(weights > 0, inputs.trains_on)


def test_the_loss_is_the_mean_over_the_training_patients_of_a_member() -> None:
    logits, labels = torch.randn(2, 3), torch.tensor([1.0, 0.0, 1.0])
    weights = torch.tensor([[0.5, 0.0, 1.5], [0.0, 0.0, 0.0]])
    loss = member_losses(Logits(logits), labels, weights, CONFIG)
    expected = (0.5 * functional.softplus(-logits[0, 0]) + 1.5 * functional.softplus(-logits[0, 2])) / 2
    torch.testing.assert_close(loss, torch.stack([expected, torch.tensor(0.0)]))


def test_late_fusion_adds_the_losses_of_the_branches() -> None:
    image, metadata = torch.randn(1, 3), torch.randn(1, 3)
    labels, weights = torch.tensor([1.0, 0.0, 1.0]), torch.ones(1, 3)
    config = dataclasses.replace(CONFIG, auxiliary=0.3)

    def loss(*logits: Tensor) -> Tensor:
        return member_losses(Logits(*logits), labels, weights, config)

    expected = loss(image + metadata) + 0.3 * (loss(image) + loss(metadata))
    torch.testing.assert_close(loss(image + metadata, image, metadata), expected)


def test_the_loss_of_single_instances_is_that_of_the_class_of_the_bag() -> None:
    logits, by_class = torch.randn(2, 3), torch.rand(2, 3, 2)
    labels, weights = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 2.0]])
    config = dataclasses.replace(CONFIG, instance_loss=0.3)
    own = torch.stack([by_class[:, 0, 1], by_class[:, 1, 0], by_class[:, 2, 1]], 1)
    expected = member_losses(Logits(logits), labels, weights, config)
    expected += 0.3 * (own * weights).sum(1) / torch.tensor([2.0, 1.0])
    torch.testing.assert_close(
        member_losses(Logits(logits, losses=by_class), labels, weights, config), expected
    )


def test_instance_dropout_keeps_its_share_and_never_empties_a_bag() -> None:
    sizes = torch.tensor([1, 1000, 2, 1])
    kept = drop_instances(sizes.tolist(), 0.9, generators([1, 2]))
    assert kept[:, 1:1001].float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert all(part.any(1).all() for part in kept.split(sizes.tolist(), 1))
    assert not torch.equal(kept[0], kept[1])


def test_the_instance_that_is_always_kept_is_chosen_uniformly() -> None:
    kept = drop_instances([3] * 4000, 1 - 1e-9, generators([1, 2]))
    shares = kept[0].view(4000, 3).float().mean(0)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_instance_dropout_drawn_in_parts_is_that_of_a_single_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [5, 40, 1, 54]
    whole, in_parts = generators([1, 2]), generators([1, 2])
    kept = drop_instances(sizes, 0.5, whole)
    drawn = draw(generators([1, 2]), 100) >= 0.5
    assert ((kept == drawn) | kept).all() and (kept != drawn).sum() <= 2 * len(sizes)
    monkeypatch.setattr(losses, "_DRAWN", 7)
    assert torch.equal(drop_instances(sizes, 0.5, in_parts), kept)
    assert torch.equal(draw(whole, 3), draw(in_parts, 3)), "what is drawn afterwards must not change either"
