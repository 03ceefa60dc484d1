"""`explain_out_of_memory`: turn torch's errors about missing memory into an error that says what to do."""

import contextlib
import errno
import re
from collections.abc import Iterator

import torch

from mil_toolkit.core.errors import OutOfMemory
from mil_toolkit.core.memory import available_memory

# Besides torch.OutOfMemoryError: errors of the CUDA driver, of cuBLAS and cuDNN, and of the CPU's allocator.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|STATUS_ALLOC_FAILED|DefaultCPUAllocator|not enough memory: you tried", re.IGNORECASE
)
_GIBIBYTE = 2**30


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Raise OutOfMemory, with the free memory and `advice`, where torch lacks memory within the block.

    advice: which option of the command needs less memory, as a sentence
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_situation(error), advice) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device or this machine lacks memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):  # of shared memory and of new processes
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def _situation(error: BaseException) -> str:
    """Return which device lacks memory, and how much of it is free.

    Torch's message names the CUDA device, except in errors of the driver.
    """
    message = str(error)
    of_machine = isinstance(error, MemoryError | OSError) or "CPUAllocator" in message
    if of_machine or not torch.cuda.is_available():
        return f"Out of memory: {_in_gibibytes(available_memory())} are free on this machine."
    named = re.search(r"GPU (\d+)", message)
    index = int(named[1]) if named else torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(index)
    return (
        f"Out of memory on CUDA device {index} ({torch.cuda.get_device_name(index)}):"
        f" {_in_gibibytes(free)} of {_in_gibibytes(total)} are free, and this process holds"
        f" {_in_gibibytes(torch.cuda.memory_reserved(index))}. Other processes may use the rest."
    )


def _in_gibibytes(size: int) -> str:
    return f"{size / _GIBIBYTE:.1f} GiB"
