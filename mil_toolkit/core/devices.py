"""Device, precision and threads, chosen from what the hardware supports.

Nothing is timed, so that the same command gives the same bits on the same machine.
"""

import functools
import logging
import os
import re
from collections.abc import Iterable

import torch

from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.launchers import LocalRank, local_rank

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = "auto, cpu, cuda, cuda:i"
_OTHER_ACCELERATORS = ("xpu", "hip", "rocm")
_NATIVE_BFLOAT16 = 8  # major compute capability of the first cards with bfloat16 products (Ampere)
logger = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """Return the device named `auto`, `cpu`, `cuda` or `cuda:i`.

    `auto` is a CUDA device if there is one, else the CPU. Without an index, the number of this process on its
    machine (see `local_rank`) selects the CUDA device, and 0 is the default. Raises UsageError for any other
    name, for a device that does not exist, and for one that this build of torch has no kernels for.
    """
    _check_name(name, _NAMES, about_mps="mps is for mil-extract: use cpu here.")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    index = int(name.split(":")[1]) if ":" in name else _own_index(available)
    if index >= available:
        raise UsageError(f"--device {name}: CUDA device {index} was requested, but {available} are usable.")
    _check_kernels(index)
    compute_exactly()
    return torch.device("cuda", index)


def pick_extraction_device(name: str) -> torch.device:
    """Return the device named as for `pick_device`, or `mps`, the graphics processor of an Apple computer.

    Only networks without gradients run there, in float32. Raises UsageError as `pick_device` does, and where
    there is no such processor.
    """
    if name != "mps":
        _check_name(name, f"{_NAMES}, mps", about_mps="Use mps, without a number.")
        return pick_device(name)
    if not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine, or this build of torch, has no MPS. Use --device cpu.")
    return torch.device("mps")


def _check_name(name: str, names: str, about_mps: str) -> None:
    """Raise UsageError for a name of another form than those of `pick_device`.

    names: those that the message lists; about_mps: its advice for MPS
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        return
    kind = name.split(":")[0]
    advice = about_mps if kind == "mps" else ""
    if kind in _OTHER_ACCELERATORS:
        advice = f"Accelerators of the kind {kind} are not supported: use cpu."
    raise UsageError(f"--device {name!r} is not one of {names}. {advice}".rstrip())


def _own_index(available: int) -> int:
    """Return the CUDA device of this process if none was chosen, among `available` ones.

    A launcher that shows every process only its own device leaves one, which has the number 0.
    """
    rank = local_rank()
    if rank is None or available == 0:
        return 0
    if available == 1:
        if rank.number:
            _log_only_device(rank)
        return 0
    if rank.number >= available:
        raise UsageError(
            f"{rank.variable} is {rank.number}, so this process would use CUDA device {rank.number}, but"
            f" {available} are usable. Start at most {available} processes on this machine, or choose a"
            " device with --device cuda:i."
        )
    return rank.number


@functools.cache  # once in each process, though several functions pick the device
def _log_only_device(rank: LocalRank) -> None:
    logger.info(
        "%s is %d, and one CUDA device is visible: it is used. If the launcher did not give each process a"
        " device of its own, all of them share this one.",
        *rank,
    )


def _check_kernels(index: int) -> None:
    """Raise UsageError if this build of torch has no kernels for a CUDA device."""
    capability = torch.cuda.get_device_capability(index)
    kernels = torch.cuda.get_arch_list()
    if not has_kernels(capability, kernels):
        major, minor = capability
        raise UsageError(
            f"CUDA device {index} ({torch.cuda.get_device_name(index)}) has the compute capability"
            f" {major}.{minor}, and torch {torch.__version__} has kernels only for {', '.join(kernels)}."
            " Install a build of torch with kernels for it (https://pytorch.org/get-started/previous-versions)"
            ", or use another device, such as --device cpu."
        )


def has_kernels(capability: tuple[int, int], kernels: Iterable[str]) -> bool:
    """Return whether kernels for these architectures run on a CUDA device of this compute capability.

    Machine code (`sm_86`) runs on the same major and the same or a higher minor version, and if its name ends
    with a letter (`sm_90a`) only on its own; PTX (`compute_90`) is translated for every later version. Names
    of another form, as in builds for AMD, are not judged.

    >>> has_kernels((8, 9), ["sm_80"]), has_kernels((7, 0), ["sm_75"]), has_kernels((9, 0), ["compute_80"])
    (True, False, True)
    """
    known = [match for name in kernels if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name))]
    return not known or any(_runs_on(capability, match) for match in known)


def _runs_on(capability: tuple[int, int], kernel: re.Match[str]) -> bool:
    version = int(kernel[2]), int(kernel[3])
    if kernel[4]:
        return capability == version
    return capability >= version and (kernel[1] == "compute" or capability[0] == version[0])


def compute_exactly() -> None:
    """Let CUDA compute in the precision of the operands, with the same bits each time; no effect on the CPU.

    By default, convolutions round float32 operands to TF32, sums of 16-bit products may be kept in 16 bits,
    and cuDNN and attention may choose kernels that add in a random order.
    """
    # Of the two interfaces to TF32, torch refuses programs that use both. This one exists since torch 1.7.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used


def architecture(device: torch.device) -> str:
    """Return the architecture of a CUDA device, such as `sm_90`, or `mps`; empty for a CPU.

    Embeddings of the same precision differ in their last bits between architectures.
    """
    if device.type != "cuda":
        return "mps" if device.type == "mps" else ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto` to the fastest of float32, bfloat16 and float16 that `device` supports natively.

    Any other known name is returned as it is. Raises UsageError for an unknown name, and for another than
    float32 on MPS.
    """
    if device.type == "mps" and name in ("bfloat16", "float16"):
        raise UsageError(f"--precision {name}: networks run in float32 on mps. Use --precision float32.")
    if name == "auto":
        return _native_precision(device)
    if name not in DTYPES:
        raise UsageError(f"--precision {name!r} is not one of auto, {', '.join(DTYPES)}.")
    return name


def _native_precision(device: torch.device) -> str:
    if device.type == "cuda":
        # A T4 emulates bfloat16 at a fraction of the speed of its native float16.
        major, _ = torch.cuda.get_device_capability(device)  # of this device, not of the current one
        return "bfloat16" if major >= _NATIVE_BFLOAT16 else "float16"
    return "bfloat16" if device.type == "cpu" and _cpu_has_bfloat16() else "float32"


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
