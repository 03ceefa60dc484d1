"""The Huber loss on standardised targets."""

import torch

from mil_toolkit.training.number_losses import DELTA, huber_losses


def test_the_loss_is_quadratic_near_zero_and_linear_beyond() -> None:
    outputs = torch.tensor([[0.5, -0.5, 3.0, -4.0]])
    expected = torch.tensor([[0.125, 0.125, DELTA * (3 - DELTA / 2), DELTA * (4 - DELTA / 2)]])
    torch.testing.assert_close(huber_losses(outputs, torch.zeros(1, 4)), expected)


def test_a_member_has_the_loss_that_it_has_alone() -> None:
    outputs, targets = torch.randn(2, 3, 7)
    together = huber_losses(outputs, targets)
    for place in range(3):
        assert torch.equal(together[place], huber_losses(outputs[place], targets[place]))
