"""`captured`: a network for batches of one size, as a CUDA graph that is started by a single call.

A network of some hundred kernels takes longer to start than to compute where a card is fast.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mil_toolkit.core.device_memory import is_out_of_memory

logger = logging.getLogger(__name__)
Network = Callable[[Tensor], Tensor]
_WARM_UP = 3  # calls before the capture, in which libraries choose kernels and allocate memory


class _Captured:
    """A captured network; its result is overwritten by the next call on the same stream."""

    def __init__(self, network: Network, pixels: Tensor):
        self._pixels, self._graph = pixels, torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(pixels.device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                network(pixels)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self._graph):
            self._output = network(pixels)

    def __call__(self, pixels: Tensor) -> Tensor:
        self._pixels.copy_(pixels)
        self._graph.replay()
        return self._output


def captured(network: Network, shape: Sequence[int], device: torch.device) -> Network:
    """Return a network that computes the same bits on batches of pixels of this shape, uint8 on the device.

    Only a CUDA device has graphs. A network that cannot be captured, such as one that waits for its own
    results, is returned as it is, and a log line says so. Raises an error of `is_out_of_memory` if the batch
    does not fit.
    """
    if device.type != "cuda":
        return network
    pixels = torch.zeros(*shape, dtype=torch.uint8, device=device)
    try:
        with torch.cuda.device(device), torch.inference_mode():
            return _Captured(network, pixels)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        logger.info("The network is not captured as a CUDA graph: %s", error)
        return network
