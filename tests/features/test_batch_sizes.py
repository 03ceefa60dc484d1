"""The batch of a device comes from a literal table."""

from types import SimpleNamespace

import pytest
import torch

from mil_toolkit.features.batch_sizes import CPU_BATCH, CUDA_BATCHES, default_batch_size

GIB = 2**30


# T4, RTX 2060, RTX 3060, RTX 4090, A100 and H100, by the memory that they report.
@pytest.mark.parametrize(
    ("memory", "batch"),
    [
        (3.9 * GIB, 32),
        (5.8 * GIB, 64),
        (11.7 * GIB, 128),
        (14.6 * GIB, 128),
        (23.5 * GIB, 256),
        (79.1 * GIB, 256),
    ],
)
def test_a_card_gets_the_batch_of_its_memory(
    memory: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the chosen card, not of the current one."""
    asked: list[torch.device] = []

    def properties(device: torch.device) -> SimpleNamespace:
        asked.append(device)
        return SimpleNamespace(total_memory=int(memory))

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert default_batch_size(torch.device("cuda", 1)) == batch
    assert asked == [torch.device("cuda", 1)]


def test_the_table_descends_to_any_memory() -> None:
    least, batches = zip(*CUDA_BATCHES, strict=True)
    assert sorted(least, reverse=True) == [*least] and sorted(batches, reverse=True) == [*batches]
    assert least[-1] == 0 and default_batch_size(torch.device("cpu")) == CPU_BATCH
