"""`Graphs`: steps of training as CUDA graphs, each of which a single call starts.

A step of a small model has more than a hundred operations, which take longer to begin than to compute.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Compute = Callable[[Sequence[Tensor]], Tensor]


class _Captured:
    """A captured computation; its inputs lie in the same memory at each call."""

    def __init__(self, compute: Compute, tensors: Sequence[Tensor], device: torch.device):
        self._tensors, self._graph = [tensor.clone() for tensor in tensors], torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self._graph):
            self._output = compute(self._tensors)

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        if tensors:
            torch._foreach_copy_(self._tensors, list(tensors))
        self._graph.replay()
        return self._output.clone()  # the next call overwrites it


class Graphs:
    """Computations on a device, captured as CUDA graphs by what decides about their operations.

    On a CUDA device a computation is run as it is the first time, when libraries choose kernels and allocate
    memory, and captured the second time. It must not wait for its own results, and whatever else it reads or
    changes must stay in the same memory. On other devices it always runs as it is.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._known: dict[Hashable, _Captured | None] = {}  # None: was run once

    def run(self, key: Hashable, compute: Compute, tensors: Sequence[Tensor]) -> Tensor:
        """Return the result of a computation; with an equal key, its operations and shapes are the same."""
        if self._device.type != "cuda":
            return compute(tensors)
        if key not in self._known:
            self._known[key] = None
            return compute(tensors)
        captured = self._known[key]
        if captured is None:
            captured = self._known[key] = _Captured(compute, tensors, self._device)
        return captured(tensors)
