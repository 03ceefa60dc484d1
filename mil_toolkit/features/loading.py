"""`load_batches`: load images in threads, in order and with bounded memory, while the network computes."""

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


def _load_all(
    jobs: Iterator[Job], load: Callable[[Job], Loaded], workers: int, window: int, ahead: bool
) -> Iterator[Loaded]:
    """Yield the results of `load` in the order of the jobs, with at most `window` of them in memory.

    With `ahead` the window is refilled after each result, otherwise only once it is empty.
    """
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        futures: deque[Future[Loaded]] = deque()
        while True:
            if ahead or not futures:
                futures.extend(pool.submit(load, job) for job in islice(jobs, window - len(futures)))
            if not futures:
                return
            yield futures.popleft().result()


def stack_on(device: torch.device, images: Sequence[Pixels], size: int | None = None) -> Tensor:
    """Stack images (S, S, 3) uint8 on the device: (n, S, S, 3).

    size: n to pad to with black images, by default the number of images
    """
    batch = np.zeros((size or len(images), *images[0].shape), dtype=np.uint8)
    np.stack(images, out=batch[: len(images)])
    pixels = torch.from_numpy(batch)
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels
