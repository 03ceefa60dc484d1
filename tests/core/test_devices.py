"""The choice of device, precision and threads, with hardware that is pretended."""

from pathlib import Path

import pytest
import torch

from mil_toolkit.config import PRECISION_NAMES
from mil_toolkit.core import devices
from mil_toolkit.core.devices import DTYPES, available_cores, pick_device, pick_precision
from mil_toolkit.core.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two CUDA cards, outside torchrun."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return monkeypatch


def test_auto_takes_a_card_where_there_is_one(cards: pytest.MonkeyPatch) -> None:
    """And the CPU where there is none."""
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("cpu") == CPU
    cards.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU


def test_local_rank_chooses_the_card_unless_one_is_named(cards: pytest.MonkeyPatch) -> None:
    """Each process of torchrun gets its own card."""
    cards.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0)


def test_a_card_that_is_not_there_is_refused(cards: pytest.MonkeyPatch) -> None:
    """Never a silent fall-back to the CPU."""
    with pytest.raises(UsageError, match=r"card 2 was asked for, this machine has 2"):
        pick_device("cuda:2")
    cards.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"card 0 was asked for, this machine has 0"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:1 ", "mps"])
def test_unknown_devices_are_refused(name: str) -> None:
    """With the names that there are."""
    with pytest.raises(UsageError, match="none of auto, cpu, cuda and cuda:i"):
        pick_device(name)


@pytest.mark.parametrize(
    ("vector", "tile", "expected"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_cpu_precision_follows_its_instructions(
    monkeypatch: pytest.MonkeyPatch, vector: bool, tile: bool, expected: str
) -> None:
    """Emulated bfloat16 is never chosen."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vector)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tile)
    assert pick_precision("auto", CPU) == expected


def test_cuda_precision_asks_for_native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4, which emulates it, gets float16."""
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, n=native: n or including_emulation,
        )
        assert pick_precision("auto", CUDA) == ("bfloat16" if native else "float16")


def test_a_named_precision_is_kept() -> None:
    """And the names are those of the command."""
    assert [pick_precision(name, CPU) for name in DTYPES] == list(DTYPES)
    assert {"auto", *DTYPES} == set(PRECISION_NAMES)
    with pytest.raises(UsageError, match="'double' is none of auto, float32"):
        pick_precision("double", CPU)


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 2), ("10000 100000", 1), ("max 100000", 64)])
def test_cores_respect_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, cores: int
) -> None:
    """The smaller of both, rounded up, at least one."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(devices, "_CPU_QUOTA", quota)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(64)))
    assert available_cores() == cores
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {5})
    assert available_cores() == 1
    quota.unlink()
    assert available_cores() == 1


def test_threads_follow_the_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS, which torchrun sets, has the last word."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(devices, "available_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    devices.use_available_cores()
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices.use_available_cores()
    assert asked == [7]
