"""The optimizer of K members against the optimizers of torch."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from mil_toolkit.config.head import OPTIMIZER_NAMES, HeadConfig
from mil_toolkit.model.head import Logits, MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import generators
from mil_toolkit.training.losses import member_losses
from mil_toolkit.training.optimizer import Optimizer

CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=3, components=4)


@pytest.mark.parametrize(
    ("name", "momentum", "reference", "arguments"),
    [
        ("sgd", 0.0, torch.optim.SGD, {}),
        ("sgd", 0.9, torch.optim.SGD, {"momentum": 0.9}),
        ("adam", 0.9, torch.optim.Adam, {}),
        ("adamw", 0.9, torch.optim.AdamW, {}),
    ],
)
def test_updates_equal_those_of_torch(
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
def test_an_inactive_member_keeps_its_weights_and_state(name: str) -> None:
    """Member 1 skips every other step and ends as if those steps had not happened."""
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
