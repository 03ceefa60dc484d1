"""Errors of torch about missing memory, and what a user reads instead."""

import errno

import pytest
import torch

from mil_toolkit.core import device_memory
from mil_toolkit.core.device_memory import explain_out_of_memory, is_out_of_memory
from mil_toolkit.core.errors import OutOfMemory, UsageError

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 1 has a total capacity of 14.75 GiB of which 2.06"
    " MiB is free."
)
OTHERS = [
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


def explained(error: BaseException) -> str:
    with pytest.raises(UsageError) as raised, explain_out_of_memory("Use less."):
        raise error
    assert isinstance(raised.value, OutOfMemory) and raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), *OTHERS], ids=str)
def test_every_kind_of_missing_memory_becomes_one_sentence_with_advice(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "available_memory", lambda: 3 * 2**29)
    assert explained(error) == "Out of memory: 1.5 GiB are free on this machine. Use less."


@pytest.mark.parametrize(("message", "index"), [(CUDA, 1), ("CUDA error: out of memory", 0)])
def test_a_cuda_device_is_named_with_what_is_free_on_it(
    message: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", "Card {}".format)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((device + 1) * 2**30, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**33)
    assert explained(torch.OutOfMemoryError(message)) == (
        f"Out of memory on CUDA device {index} (Card {index}): {index + 1}.0 GiB of 16.0 GiB are free, and"
        " this process holds 8.0 GiB. Other processes may use the rest. Use less."
    )


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_missing_memory_of_the_machine_is_not_that_of_a_card(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the images of decoder processes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_memory, "available_memory", lambda: 2**29)
    assert explained(error) == "Out of memory: 0.5 GiB are free on this machine. Use less."


def test_other_errors_pass() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (RuntimeError("The size of tensor a (3) must match"), ValueError("out of memory"), full):
        assert not is_out_of_memory(error)
        with pytest.raises(type(error)) as raised, explain_out_of_memory("Use less."):
            raise error
        assert raised.value is error
