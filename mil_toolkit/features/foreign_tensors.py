"""`read_tensor`: read a tensor that torch.save wrote.

torch.load believes a file: a tensor may be a view that repeats one number a billion times, or name a storage
that is larger than its record, behind which it then reads. So the file is examined before it is loaded, and
its tensor before it is used.
"""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.core.reading import open_input
from mil_toolkit.features.foreign_content import ForeignProblem, check_features, unreadable

_ZIP, _LEGACY = b"PK", b"\x80\x02"  # since version 1.6 of torch, and before
_LEGACY_PICKLES = 5  # magic number, protocol, system, tensor and keys of storages; then come the storages
_MAX_OPERATIONS = 10_000
_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
    }
)
_NOT_ONE_TENSOR = "it is not one tensor, as torch.save(tensor, path) writes it"


def read_tensor(path: Path) -> NDArray[np.floating]:
    """Read a .pt file; raises ForeignProblem if it does not hold one dense tensor of features."""
    with open_input(path) as file:
        start = file.read(2)
        file.seek(0)
        if start not in (_ZIP, _LEGACY):
            raise unreadable("it is not a file that torch.save wrote")
        held = None
        if start == _ZIP:
            held = _check_archive(file)
        else:
            _check_pickles(file, _LEGACY_PICKLES)
        file.seek(0)
        tensor = _load(file)
    return _values(tensor, held)


def _check_archive(file: BufferedReader) -> int | None:
    """Return the size of the only storage in a zip file, None for another number of storages.

    torch.save does not compress. Without a comment, there is one way to find the directory of a zip file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            file.seek(0, 2)
            if archive.comment or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise unreadable(_NOT_ONE_TENSOR)
            if sum(entry.file_size for entry in entries) > file.tell():
                raise unreadable("it declares more than it holds")
            (pickled,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
            with archive.open(pickled) as content:
                _check_pickles(content, 1)
    except ForeignProblem:
        raise
    except Exception:  # noqa: BLE001 - zipfile raises nearly anything on a damaged file
        raise unreadable(_NOT_ONE_TENSOR) from None
    storages = [entry.file_size for entry in entries if "/data/" in entry.filename]
    return storages[0] if len(storages) == 1 else None


def _check_pickles(file: IO[bytes], count: int) -> None:
    """Raise ForeignProblem if one of the pickles refers to anything but dense tensors and their storages."""
    try:
        for _ in range(count):
            for reference in _references(file):
                is_storage = reference.startswith("torch ") and reference.endswith("Storage")
                if not (is_storage or reference in _GLOBALS):
                    raise unreadable(_NOT_ONE_TENSOR)
    except ForeignProblem:
        raise
    except Exception:  # noqa: BLE001 - pickletools raises nearly anything on a damaged file
        raise unreadable(_NOT_ONE_TENSOR) from None


def _references(pickled: IO[bytes]) -> Iterator[str]:
    """Yield the names of the classes and functions that a pickle refers to, as `module name`."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if number > _MAX_OPERATIONS or operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise unreadable(_NOT_ONE_TENSOR)
        if operation.name == "GLOBAL":
            yield str(argument)


def _load(file: BufferedReader) -> torch.Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
            tensor = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - torch raises nearly anything, and advises to run the code in the file
        raise unreadable(_NOT_ONE_TENSOR) from None
    if not isinstance(tensor, torch.Tensor):
        raise unreadable(f"it holds {type(tensor).__name__} instead of one tensor")
    return tensor.detach()


def _values(tensor: torch.Tensor, held: int | None) -> NDArray[np.floating]:
    """Return a tensor as an array; held: bytes of its storage in the file, if they are known."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise unreadable(f"its tensor is {tensor.layout} on {tensor.device} instead of dense")
    declared, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if declared > stored or held not in (None, stored):
        raise unreadable("its tensor declares more than the file holds")
    dtype = np.dtype(np.float32) if tensor.dtype == torch.bfloat16 else _numpy_dtype(tensor.dtype)
    check_features(dtype, tensor.shape)
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    values: NDArray[np.floating] = tensor.resolve_neg().numpy()
    return values


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[np.generic]:
    try:
        return np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        raise unreadable(f"its tensor is of {dtype}") from None
