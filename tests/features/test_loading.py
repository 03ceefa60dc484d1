"""Loading in threads: in order, in batches, and with bounded memory."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from mil_toolkit.features.loading import in_threads, load_batches, stack_on

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


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_compute_whole_batches_in_order_from_a_bounded_window(threads: int) -> None:
    """In each of them torch uses one thread; afterwards it uses as many as before."""
    taken: list[int] = []
    before = torch.get_num_threads()

    def jobs() -> Iterator[int]:
        for number in range(18):
            taken.append(number)
            yield number

    def compute(batch: Sequence[int]) -> tuple[list[int], int, str]:
        return [number**2 for number in batch], torch.get_num_threads(), threading.current_thread().name

    done: list[int] = []
    for squares, torch_threads, name in in_threads(jobs(), compute, 4, threads):
        done += squares
        assert torch_threads == 1 and name != threading.current_thread().name
        assert len(squares) == (4 if len(done) <= 16 else 2)
        assert len(taken) - len(done) <= 4 * 2 * threads
    assert done == [number**2 for number in range(18)]
    assert torch.get_num_threads() == before


def test_threads_stop_at_an_error_and_compute_nothing_that_has_not_begun() -> None:
    begun: list[int] = []

    def compute(batch: Sequence[int]) -> float:
        begun.extend(batch)
        return 1 / batch[0]

    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        list(in_threads(iter(range(100)), compute, 1, 1))
    assert len(begun) <= 3 and torch.get_num_threads() == before


def test_stacks_are_padded_with_black_images() -> None:
    images = [np.full((2, 2, 3), value, dtype=np.uint8) for value in (1, 2)]
    assert torch.equal(stack_on(CPU, images), torch.from_numpy(np.stack(images)))
    padded = stack_on(CPU, images, 4)
    assert padded.shape == (4, 2, 2, 3) and torch.equal(padded[:2], stack_on(CPU, images))
    assert padded[2:].count_nonzero() == 0
