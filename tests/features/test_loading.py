"""Loading in threads: in order, in batches, and with bounded memory."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mil_toolkit.features.loading import load_batches, stack_on

CPU = torch.device("cpu")


@pytest.mark.parametrize(("device", "most"), [("cpu", 0), ("cuda", 8)])
@pytest.mark.parametrize("workers", [0, 3])
def test_batches_come_in_order_from_a_bounded_window(device: str, most: int, workers: int) -> None:
    """On the CPU nothing is loaded ahead; for CUDA the window holds two batches."""
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(18):
            taken.append(number)
            yield number

    done: list[int] = []
    for batch in load_batches(jobs(), lambda number: number**2, 4, workers, torch.device(device)):
        done += batch
        assert len(taken) - len(done) <= most
        assert len(batch) == (4 if len(done) <= 16 else 2)
    assert done == [number**2 for number in range(18)]


def test_an_error_while_loading_reaches_the_consumer() -> None:
    with pytest.raises(ZeroDivisionError):
        list(load_batches(iter([1, 0]), lambda number: 1 // number, 2, 1, CPU))


def test_stacks_are_padded_with_black_images() -> None:
    images = [np.full((2, 2, 3), value, dtype=np.uint8) for value in (1, 2)]
    assert torch.equal(stack_on(CPU, images), torch.from_numpy(np.stack(images)))
    padded = stack_on(CPU, images, 4)
    assert padded.shape == (4, 2, 2, 3) and torch.equal(padded[:2], stack_on(CPU, images))
    assert padded[2:].count_nonzero() == 0
