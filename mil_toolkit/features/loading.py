"""`load_batches` and `in_threads`: load or embed images in threads, in order and with bounded memory."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.features.stain import Pixels

Job = TypeVar("Job")
Loaded = TypeVar("Loaded")
_WAITING = 2  # batches for each thread, of which one is being computed


def load_batches(
    jobs: Iterator[Job], load: Callable[[Job], Loaded], size: int, workers: int, device: torch.device
) -> Iterator[list[Loaded]]:
    """Yield the results of `load` in the order of the jobs, in batches of `size`; the last may be smaller.

    workers: number of threads that load, at least 1
    device: that processes the batches. For CUDA, the next batch is loaded meanwhile; on the CPU, where
        the threads would compete with the network for the cores, loading and processing take turns.
    """
    ahead = device.type == "cuda"
    loaded = _load_all(jobs, load, workers, size * (2 if ahead else 1), ahead)
    while batch := list(islice(loaded, size)):
        yield batch


def in_threads(
    jobs: Iterator[Job], compute: Callable[[Sequence[Job]], Loaded], size: int, threads: int
) -> Iterator[Loaded]:
    """Yield the results of `compute` for batches of `size` jobs, in order; the last may be smaller.

    threads: number of threads, each of which computes another batch

    Within the threads torch uses one thread for each operation. So no thread waits for others, as the threads
    of one operation do, and the bits of a result do not depend on their number.
    """
    batches = iter(lambda: list(islice(jobs, size)), [])
    with _one_thread_for_each_operation():
        yield from _load_all(batches, compute, threads, _WAITING * threads, ahead=True)


@contextlib.contextmanager
def _one_thread_for_each_operation() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_all(
    jobs: Iterator[Job], load: Callable[[Job], Loaded], workers: int, window: int, ahead: bool
) -> Iterator[Loaded]:
    """Yield the results of `load` in the order of the jobs, with at most `window` of them in memory.

    With `ahead` the window is refilled after each result, otherwise only once it is empty. What has not begun
    when the consumer stops is not computed.
    """
    pool = ThreadPoolExecutor(max(workers, 1))
    futures: deque[Future[Loaded]] = deque()
    try:
        while True:
            if ahead or not futures:
                futures.extend(pool.submit(load, job) for job in islice(jobs, window - len(futures)))
            if not futures:
                return
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def stack_on(device: torch.device, images: Sequence[Pixels], size: int | None = None) -> Tensor:
    """Stack images (S, S, 3) uint8 on the device: (n, S, S, 3).

    size: n to pad to with black images, by default the number of images
    """
    batch = np.zeros((size or len(images), *images[0].shape), dtype=np.uint8)
    np.stack(images, out=batch[: len(images)])
    pixels = torch.from_numpy(batch)
    return (pixels.pin_memory() if device.type == "cuda" else pixels).to(device, non_blocking=True)
