"""`Transfer`: the way of a batch to the device and of its embeddings back, without waiting for either.

It is the only part of the extraction that knows CUDA's streams and events.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_toolkit.features.stain import Pixels

Embeddings = NDArray[np.float16]
Network = Callable[[Tensor], Tensor]


class Transfer:
    """Embeds batches on a device.

    network: pixels (B, S, S, 3) uint8 on the device -> embeddings (B, D) float16, which may be overwritten
        by the next call
    """

    def __init__(self, network: Network, device: torch.device):
        self.network, self.device = network, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, pixels: Pixels) -> Callable[[], Embeddings]:
        """Begin to embed pixels (B, S, S, 3); returns a function that waits for the embeddings (B, D).

        On a CUDA device, the pixels must not change until the embeddings are there.
        """
        host = torch.from_numpy(pixels)
        if self._copies is None:
            embeddings: Embeddings = self.network(host.to(self.device)).cpu().numpy()
            return lambda: embeddings
        with torch.cuda.device(self.device):
            return self._begin_on_cuda(host, self._copies)

    def _begin_on_cuda(self, host: Tensor, copies: torch.cuda.Stream) -> Callable[[], Embeddings]:
        compute = torch.cuda.current_stream()
        pinned = host if host.is_pinned() else host.pin_memory()
        with torch.cuda.stream(copies):
            pixels = pinned.to(self.device, non_blocking=True)
        compute.wait_stream(copies)
        pixels.record_stream(compute)
        output = self.network(pixels)
        embeddings = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        embeddings.copy_(output, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # leaves the core to the decoders meanwhile
        done.record(compute)

        def finish() -> Embeddings:
            done.synchronize()
            return embeddings.numpy()

        return finish


@contextlib.contextmanager
def pinned_on(device: torch.device, pixels: Pixels) -> Iterator[None]:
    """Pin memory within the block, so that a CUDA device copies from it while the processor goes on."""
    if device.type != "cuda":
        yield
        return
    runtime, address = torch.cuda.cudart(), torch.from_numpy(pixels).data_ptr()
    with torch.cuda.device(device):
        torch.cuda.check_error(runtime.cudaHostRegister(address, pixels.nbytes, 0))
        try:
            yield
        finally:
            torch.cuda.synchronize()  # until no copy reads the memory any more
            torch.cuda.check_error(runtime.cudaHostUnregister(address))
