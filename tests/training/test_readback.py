"""The logits of each epoch on the host: at once on the CPU, one epoch late from a device."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mil_toolkit.training import readback
from mil_toolkit.training.readback import read_back

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


def epochs(log: list[str], count: int = 4) -> Iterator[Tensor]:
    for number in range(count):
        log.append(f"compute {number}")
        yield torch.full((2, 3), float(number))


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (CPU, "compute 0, score 0, compute 1, score 1, compute 2, score 2, compute 3, score 3"),
        (CARD, "compute 0, compute 1, score 0, compute 2, score 1, compute 3, score 2, score 3"),
    ],
)
def test_a_device_computes_an_epoch_while_the_host_scores_the_one_before(
    device: torch.device, expected: str
) -> None:
    log: list[str] = []
    for number, values in enumerate(read_back(epochs(log), device)):
        assert (values == number).all() and values.shape == (2, 3)
        log.append(f"score {number}")
    assert ", ".join(log) == expected


@pytest.mark.parametrize("device", [CPU, CARD])
def test_there_may_be_no_epoch(device: torch.device) -> None:
    assert list(read_back(iter(()), device)) == []


class _Event:
    """A CUDA event that only counts what is asked of it."""

    def __init__(self) -> None:
        self.recorded = self.waited = 0

    def record(self, stream: object) -> None:
        self.recorded += 1

    def synchronize(self) -> None:
        self.waited += 1


class _OnCard:
    """Stands for a tensor on a card: what is copied from it arrives when its event is waited for."""

    def __init__(self, values: Tensor):
        self.values, self.device, self.shape, self.dtype = values, CARD, values.shape, values.dtype


def test_a_card_copies_to_pinned_memory_and_only_the_reader_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[_Event] = []
    asked: list[dict[str, object]] = []

    class Pinned:
        def __init__(self, shape: torch.Size, **options: object):
            asked.append(options)

        def copy_(self, source: _OnCard, non_blocking: bool) -> None:
            assert non_blocking
            self.values = source.values

        def numpy(self) -> object:
            assert events[-1].waited == 1
            return self.values.numpy()

    def event() -> _Event:
        events.append(_Event())
        return events[-1]

    monkeypatch.setattr(torch, "empty", Pinned)
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    values = torch.arange(3.0)
    finish = readback._begin_copy(_OnCard(values))  # type: ignore[arg-type]
    assert asked == [{"dtype": torch.float32, "pin_memory": True}]
    assert (events[0].recorded, events[0].waited) == (1, 0)
    result = finish()
    assert result.tolist() == [0, 1, 2] and events[0].waited == 1
    values.zero_()  # the pinned memory is used again
    assert result.tolist() == [0, 1, 2]
