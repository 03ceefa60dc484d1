"""`check_file`: whether a file may be a checkpoint, without torch, which only reading one needs."""

import os
from pathlib import Path
from typing import Literal

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.reading import open_input
from mil_toolkit.core.text import printable

Kind = Literal["safetensors", "torch"]
_EXTENSIONS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # what torch.save writes, and what it used to write


def check_file(path: Path) -> None:
    """Raise UsageError if there is no file at `path`, or if neither content nor name is a checkpoint's."""
    try:
        kind = checkpoint_kind(path)
    except FileNotFoundError:
        raise UsageError(
            f"--weights {printable(path)}: there is no such file (and it is neither imagenet nor random)."
        ) from None
    if path.suffix not in _EXTENSIONS and kind is None:
        raise UsageError(
            f"--weights {printable(path)}: expected a .safetensors, .pth or .pt file, or another file with"
            " the content of one."
        )


def checkpoint_kind(path: Path) -> Kind | None:
    """Return the format that the first bytes of a file show; None for others."""
    with open_input(path) as file:
        head, size = file.read(9), os.fstat(file.fileno()).st_size
    if head.startswith((ZIP, PICKLE)):
        return "torch"
    # A safetensors file begins with the length of its header, which is a JSON object.
    is_header = head[8:] == b"{" and 0 < int.from_bytes(head[:8], "little") < size
    return "safetensors" if is_header else None
