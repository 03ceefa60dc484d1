"""Losses over branches and their mean for each member."""

import torch

from mil_toolkit.model.head import Logits
from mil_toolkit.training.branch_losses import member_means, over_branches


def test_each_branch_adds_its_loss_times_the_auxiliary_factor() -> None:
    total, image, metadata = torch.randn(3, 2, 4, 5)

    def loss(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.square().sum(-1)

    found = over_branches(Logits(total, image, metadata), 0.3, loss)
    torch.testing.assert_close(found, loss(total) + 0.3 * (loss(image) + loss(metadata)))
    assert torch.equal(over_branches(Logits(total), 0.3, loss), loss(total))


def test_the_mean_is_over_the_training_patients_of_a_member() -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.0, 1.5], [0.0, 0.0, 0.0]])
    assert member_means(losses, weights).tolist() == [1.5, 2.5, 0.0]
