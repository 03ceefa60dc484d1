"""The choice of device, precision and threads, on simulated hardware."""

import pytest
import torch

from mil_toolkit.config import PRECISION_NAMES
from mil_toolkit.core import devices
from mil_toolkit.core.devices import DTYPES, pick_device, pick_precision
from mil_toolkit.core.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def two_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two CUDA devices, outside torchrun."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return monkeypatch


def test_auto_picks_cuda_if_it_is_available(two_cuda_devices: pytest.MonkeyPatch) -> None:
    """And the CPU otherwise."""
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("cpu") == CPU
    two_cuda_devices.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU


def test_local_rank_selects_the_cuda_device_unless_an_index_is_given(
    two_cuda_devices: pytest.MonkeyPatch,
) -> None:
    """Each process of torchrun gets a device of its own."""
    two_cuda_devices.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0)


def test_a_missing_cuda_device_is_refused(two_cuda_devices: pytest.MonkeyPatch) -> None:
    """There is no silent fallback to the CPU."""
    with pytest.raises(UsageError, match=r"CUDA device 2 was requested, but 2 are usable"):
        pick_device("cuda:2")
    two_cuda_devices.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"CUDA device 0 was requested, but 0 are usable"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:1 ", "mps"])
def test_unknown_devices_are_refused(name: str) -> None:
    """The message lists the known names."""
    with pytest.raises(UsageError, match="not one of auto, cpu, cuda, cuda:i"):
        pick_device(name)


@pytest.mark.parametrize(
    ("vector", "tile", "expected"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_cpu_precision_depends_on_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, vector: bool, tile: bool, expected: str
) -> None:
    """Emulated bfloat16 is never chosen."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vector)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tile)
    assert pick_precision("auto", CPU) == expected


def test_cuda_precision_is_bfloat16_only_if_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4, which emulates it, gets float16."""
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, n=native: n or including_emulation,
        )
        assert pick_precision("auto", CUDA) == ("bfloat16" if native else "float16")


def test_a_named_precision_is_kept() -> None:
    """The names are the choices of the command's option."""
    assert [pick_precision(name, CPU) for name in DTYPES] == list(DTYPES)
    assert {"auto", *DTYPES} == set(PRECISION_NAMES)
    with pytest.raises(UsageError, match="'double' is not one of auto, float32"):
        pick_precision("double", CPU)


def test_threads_follow_the_cores_unless_omp_num_threads_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sets OMP_NUM_THREADS."""
    requested: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", requested.append)
    monkeypatch.setattr(devices, "available_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    devices.use_available_cores()
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices.use_available_cores()
    assert requested == [7]
