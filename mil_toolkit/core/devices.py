"""Choices made from what the hardware can do, never by timing it: the same command gives the same bits."""

import math
import os
import re
from pathlib import Path

import torch

from mil_toolkit.core.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def pick_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:i`; without an index, LOCAL_RANK chooses the card.

    Raises UsageError for another name and for a card that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device {name!r} is none of auto, cpu, cuda and cuda:i.")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not cards):
        return torch.device("cpu")
    card = int(name.split(":")[1]) if ":" in name else int(os.environ.get("LOCAL_RANK", "0"))
    if card >= cards:
        raise UsageError(
            f"--device {name}: card {card} was asked for, this machine has {cards} usable for CUDA."
        )
    return torch.device("cuda", card)


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto` to the quickest of float32, bfloat16 and float16 that the device has natively.

    Raises UsageError for an unknown name.
    """
    if name == "auto":
        return _native_precision(device)
    if name not in DTYPES:
        raise UsageError(f"--precision {name!r} is none of auto, {', '.join(DTYPES)}.")
    return name


def _native_precision(device: torch.device) -> str:
    if device.type == "cuda":
        # A T4 emulates bfloat16, at a fraction of the speed of its float16.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    # oneDNN's own check says yes to any AVX-512, where bfloat16 is emulated and slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def training_dtype(device: torch.device) -> torch.dtype:
    """The precision of the products in training: bfloat16 where it is native, else float32.

    float16 would need its losses scaled, and bfloat16 that is emulated is slow.
    """
    return torch.bfloat16 if pick_precision("auto", device) == "bfloat16" else torch.float32


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    return min(len(os.sched_getaffinity(0)), _quota_cores())


def _quota_cores() -> int:
    if not _CPU_QUOTA.is_file():
        return os.cpu_count() or 1
    quota, period = _CPU_QUOTA.read_text().split()
    return (os.cpu_count() or 1) if quota == "max" else max(1, math.ceil(int(quota) / int(period)))


def use_available_cores() -> None:
    """Let torch compute with as many threads as this process has cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
