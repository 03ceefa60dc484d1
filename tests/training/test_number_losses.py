"""The Huber loss on standardised targets."""

import torch

from mil_toolkit.training.number_losses import (
    DELTA,
    huber_losses,
    original_unit,
    standardised,
    target_scale,
)

TARGETS = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
TRAINS_ON = torch.tensor([[True, True, True, False, False], [False, True, False, True, True]])


def test_the_training_targets_of_each_fold_have_mean_zero_and_deviation_one() -> None:
    values = standardised(TARGETS, target_scale(TARGETS, TRAINS_ON))
    for own, inside in zip(values, TRAINS_ON, strict=True):
        torch.testing.assert_close(own[inside].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(own[inside].std(correction=0), torch.tensor(1.0))


def test_the_held_out_patients_do_not_move_the_scale() -> None:
    moved = torch.where(TRAINS_ON[0], TARGETS, 1000.0)
    one, other = (target_scale(targets, TRAINS_ON[:1]) for targets in (TARGETS, moved))
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.deviation, other.deviation)


def test_the_original_unit_is_restored() -> None:
    scale = target_scale(TARGETS, TRAINS_ON)
    torch.testing.assert_close(original_unit(standardised(TARGETS, scale), scale), TARGETS.expand(2, 5))


def test_equal_targets_have_a_scale_of_one() -> None:
    scale = target_scale(torch.full((5,), 3.0), TRAINS_ON)
    assert scale.deviation.tolist() == [1, 1]
    assert standardised(torch.full((5,), 3.0), scale).abs().max() == 0


def test_the_loss_is_quadratic_near_zero_and_linear_beyond() -> None:
    outputs = torch.tensor([[0.5, -0.5, 3.0, -4.0]])
    expected = torch.tensor([[0.125, 0.125, DELTA * (3 - DELTA / 2), DELTA * (4 - DELTA / 2)]])
    torch.testing.assert_close(huber_losses(outputs, torch.zeros(1, 4)), expected)


def test_a_member_has_the_loss_that_it_has_alone() -> None:
    outputs, targets = torch.randn(2, 3, 7)
    together = huber_losses(outputs, targets)
    for place in range(3):
        assert torch.equal(together[place], huber_losses(outputs[place], targets[place]))
