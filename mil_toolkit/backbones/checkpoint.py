"""`read_checkpoint`: read the tensors of a file that others may have made, without running code in it.

The memory that a file takes is bounded by its size: compressed archives, pickles that allocate, and tensors
that show more values than are stored are refused.
"""

import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO

import safetensors.torch
import torch
from torch import Tensor

from mil_toolkit.backbones.architecture import Checkpoint, StateDict
from mil_toolkit.backbones.checkpoint_kinds import ZIP, check_file, checkpoint_kind
from mil_toolkit.backbones.pickled_tuples import TupleSizes
from mil_toolkit.core.errors import DataError, MilError
from mil_toolkit.core.reading import MEBIBYTE, open_input
from mil_toolkit.core.text import printable, some

HEADER_LIMIT = 32 * MEBIBYTE  # of the header of a safetensors file
PICKLE_LIMIT = 8 * MEBIBYTE  # of each pickle of torch.save, where a byte may make an object
TUPLE_LIMIT = 1_000_000  # values of a tuple, including those of the tuples in it
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "teacher",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "student",
)
"""Keys under which programs put a network's tensors; of several, the first one is read."""
_DEEPEST = 4  # wrappers, one in the other
_PICKLES = 5  # in a file of the old format; the storages follow
_ADVICE = "Where the model was saved, save its tensors only: torch.save(model.state_dict(), PATH)."
_PROGRAM = "it is a program (TorchScript)"
_GLOBAL = re.compile(r"GLOBAL (.{1,100}?) (?:was not|whose)")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_ADVICE_OF_TORCH = re.compile(r"weights.only|safe_globals|torch\.load|pickle_module", re.IGNORECASE)
# bytearray(10**12) fills the memory; torch builds nested tensors of the old format from uninitialised memory.
_UNSAFE = ("builtins bytearray", "__builtin__ bytearray", "torch._utils _rebuild_nested_tensor")


def read_checkpoint(path: Path) -> StateDict:
    """Return the tensors of a checkpoint; see `read_wrapped`."""
    return read_wrapped(path).tensors


def read_wrapped(path: Path) -> Checkpoint:
    """Return the tensors of a checkpoint, at the top level or under one of WRAPPERS.

    The content decides whether it is read as safetensors or as a file of `torch.save`; the extension does
    not. Code in the file is never executed. Raises UsageError if the file does not exist or is something
    else, DataError if it is corrupt, contains code or holds anything but plain tensors with names.
    """
    check_file(path)
    kind = checkpoint_kind(path)
    if kind is None:
        raise DataError(_unreadable(path, "it is neither a safetensors file nor a file of torch.save"))
    try:
        content = _read_torch(path) if kind == "torch" else _read_safetensors(path)
    except MilError:
        raise
    except pickle.UnpicklingError as error:
        raise DataError(_refusal_of_pickle(path, str(error))) from None
    except zipfile.BadZipFile:
        raise DataError(_unreadable(path, "it is damaged or cut short")) from None
    except Exception as error:  # noqa: BLE001 - for a damaged file, torch raises nearly anything
        raise DataError(_unreadable(path, _plain(error))) from None
    state, wrappers = _unwrapped(content)
    return Checkpoint(_only_tensors(state, path), wrappers)


def _unwrapped(content: object) -> tuple[object, tuple[str, ...]]:
    """Return what lies under the wrappers of a checkpoint, and their names."""
    wrappers: list[str] = []
    while isinstance(content, Mapping) and len(wrappers) < _DEEPEST:
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        wrappers.append(inner[0])
        content = content[inner[0]]
    return content, tuple(wrappers)


def _read_safetensors(path: Path) -> StateDict:
    with open_input(path) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header is longer than {HEADER_LIMIT:,} bytes")
    return safetensors.torch.load_file(path)


def _read_torch(path: Path) -> object:
    # From an open file, since torch goes by the extension of a path.
    with open_input(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to programmers
        check_pickles(file)
        return torch.load(file, map_location="cpu", weights_only=True)


def check_pickles(file: BufferedReader) -> None:
    """Check that `torch.load` takes no more memory for a file of torch.save than the file is large.

    Raises ValueError for a compressed archive and for one whose entries overlap, for pickles of more than
    PICKLE_LIMIT bytes and for tuples of more than TUPLE_LIMIT values; pickle.UnpicklingError for pickles that
    allocate memory of any size.
    """
    if file.read(len(ZIP)) == ZIP:
        for content in _pickles_of_archive(file):
            _check_pickle(BytesIO(content))
    else:
        file.seek(0)
        for _ in range(_PICKLES):
            _check_pickle(file)
    file.seek(0)


def _pickles_of_archive(file: BufferedReader) -> list[bytes]:
    """Return the pickles in an archive of torch.save, which stores its entries one after the other."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ValueError(_PROGRAM)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, as torch.save never writes it")
        if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise ValueError("its entries overlap")
        pickles = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
        if sum(entry.file_size for entry in pickles) > PICKLE_LIMIT:
            raise ValueError(_too_long())
        return [archive.read(entry) for entry in pickles]


def _check_pickle(file: IO[bytes]) -> None:
    """Check one pickle without executing it."""
    start, sizes = file.tell(), TupleSizes()
    for opcode, argument, position in _operations(file):
        if position - start > PICKLE_LIMIT:
            raise ValueError(_too_long())
        if sizes.after(opcode, argument) > TUPLE_LIMIT:
            raise ValueError(f"it has a tuple of more than {TUPLE_LIMIT:,} values")
        if opcode.name == "GLOBAL" and argument in _UNSAFE:
            raise pickle.UnpicklingError(f"GLOBAL {'.'.join(str(argument).split())} was not allowed")


def _operations(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, object, int]]:
    """Yield each operation with its argument and position, up to one that is malformed.

    torch refuses a pickle there, too, after it has executed the operations before.
    """
    try:
        for opcode, argument, position in pickletools.genops(file):
            yield opcode, argument, position or 0
    except ValueError:
        return


def _too_long() -> str:
    return f"its names and shapes take more than {PICKLE_LIMIT // MEBIBYTE} MiB"


def _refusal_of_pickle(path: Path, reason: str) -> str:
    """Return why a pickle is refused: the class or function that it needs, if torch names one."""
    named = _GLOBAL.search(reason)
    if named is None:
        return _unreadable(path, "it is not a file of torch.save")
    needed = printable(named[1])
    return f"{printable(path)} holds more than tensors and was not read: it needs {needed}. {_ADVICE}"


def _plain(error: Exception) -> str:
    """Return the first sentence of a message of torch, without escape codes and advice."""
    first = _ESCAPE.sub("", str(error)).strip().split("\n")[0].split(". ")[0].rstrip(".")
    if first == _PROGRAM:
        return f"{first}. {_ADVICE}".rstrip(".")
    if not first or _ADVICE_OF_TORCH.search(first) or isinstance(error, LookupError | AttributeError):
        return "it is damaged"
    return printable(first)


def _unreadable(path: Path, reason: str) -> str:
    return f"{printable(path)} cannot be read as a checkpoint: {reason}."


def _only_tensors(state: object, path: Path) -> StateDict:
    """Return the tensors of a state dict without attributes, by which a file could replace their methods."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(
            f"{printable(path)} does not hold a state dict: expected a mapping from names to tensors, at the"
            f" top level or under {', '.join(WRAPPERS)}{_other_content(state)}."
        )
    unnamed = [key for key in state if not isinstance(key, str)]
    if unnamed:
        key = f"{printable(repr(unnamed[0])[:100])} ({type(unnamed[0]).__name__})"
        raise DataError(
            f"{printable(path)} does not hold a state dict: the key {key} is not a tensor's name."
        )
    size = path.stat().st_size
    tensors = {name: Tensor.detach(tensor) for name, tensor in state.items()}
    problems = [
        f"{printable(name)} is {kind}"
        for name, kind in ((name, _odd_kind(tensor, size)) for name, tensor in tensors.items())
        if kind is not None
    ]
    if problems:
        raise DataError(_unreadable(path, f"expected plain tensors of real numbers, but {some(problems)}"))
    return tensors


def _other_content(state: object) -> str:
    if not isinstance(state, Mapping):
        return ""
    others = [str(key)[:100] for key, value in state.items() if not isinstance(value, Tensor)]
    return f"; these keys hold something else: {some([*map(printable, others)])}"


def _odd_kind(tensor: Tensor, size: int) -> str | None:
    """Return what a tensor is instead of a plain one; size: of the file in bytes."""
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without values (device meta)"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_complex():
        return "complex"
    stored = min(tensor.untyped_storage().nbytes(), size)
    if tensor.numel() * tensor.element_size() > stored:
        return f"of shape {tuple(tensor.shape)}, but only {stored:,} bytes are stored"
    return None
