"""Device, precision and threads, chosen from what the hardware supports.

Nothing is timed, so that the same command gives the same bits on the same machine.
"""

import os
import re

import torch

from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device named `auto`, `cpu`, `cuda` or `cuda:i`.

    `auto` is a CUDA device if there is one, else the CPU. Without an index, LOCAL_RANK (set by torchrun)
    selects the CUDA device, and 0 is the default. Raises UsageError for any other name and for a device that
    does not exist.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device {name!r} is not one of auto, cpu, cuda, cuda:i.")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    index = int(name.split(":")[1]) if ":" in name else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= available:
        raise UsageError(f"--device {name}: CUDA device {index} was requested, but {available} are usable.")
    return torch.device("cuda", index)


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto` to the fastest of float32, bfloat16 and float16 that `device` supports natively.

    Any other known name is returned as it is. Raises UsageError for an unknown name.
    """
    if name == "auto":
        return _native_precision(device)
    if name not in DTYPES:
        raise UsageError(f"--precision {name!r} is not one of auto, {', '.join(DTYPES)}.")
    return name


def _native_precision(device: torch.device) -> str:
    if device.type == "cuda":
        # A T4 emulates bfloat16 at a fraction of the speed of its native float16.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    # oneDNN's own check accepts any AVX-512 CPU, even where bfloat16 is emulated and slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def training_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of matrix products in training: bfloat16 if native to `device`, else float32.

    float16 is not used because it needs loss scaling; emulated bfloat16 is not used because it is slow.
    """
    return torch.bfloat16 if pick_precision("auto", device) == "bfloat16" else torch.float32


def use_available_cores() -> None:
    """Set torch's thread count to `available_cores()`, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
