"""`read_back`: the logits of each epoch on the host, without letting a device wait for the host."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

Finish = Callable[[], np.ndarray]  # waits for a copy and returns its values


def read_back(epochs: Iterable[Tensor], device: torch.device) -> Iterator[np.ndarray]:
    """Yield the values of each epoch's tensor.

    On the CPU at once. From another device one epoch late: while the host scores an epoch, the device
    computes the next one. Whoever stops iterating discards the epoch that was begun in advance.
    """
    if device.type == "cpu":
        yield from (values.numpy() for values in epochs)
        return
    late: Finish | None = None
    for values in epochs:
        begun = _begin_copy(values)
        if late is not None:
            yield late()
        late = begun
    if late is not None:
        yield late()


def _begin_copy(values: Tensor) -> Finish:
    """Begin to copy values from a device; only CUDA copies while the host does something else."""
    if values.device.type != "cuda":
        return lambda: values.cpu().numpy()
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    pinned.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values.device))

    def finish() -> np.ndarray:
        done.synchronize()
        return pinned.numpy().copy()  # the pinned memory can be used again

    return finish
