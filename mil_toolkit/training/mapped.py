"""`MappedTensor`: a tensor in a temporary file, of which memory holds only what was used last."""

import errno
import math
import mmap
import os
import shutil
import tempfile

import torch
from torch import Tensor

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.reading import MEBIBYTE

_RELEASED_AT = 256 * MEBIBYTE  # bytes of rows that are used before all pages are given back


class MappedTensor:
    """A tensor in a file without a name in the folder for temporary files.

    rows: (N, C) tensor that is mapped from the file; use `read` and `write` for parts of it, because pages
        that were used count as memory of the process until they are given back

    The kernel removes the file when the process ends, even if it is killed. The space is reserved at once:
    raises UsageError where the disk does not have it.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype):
        self._row_bytes = columns * dtype.itemsize
        size = rows * self._row_bytes
        with tempfile.TemporaryFile() as file:
            _reserve(file.fileno(), size)
            self._memory = mmap.mmap(file.fileno(), size)
        self.rows = torch.frombuffer(self._memory, dtype=dtype).view(rows, columns)
        self._used = 0

    def read(self, rows: Tensor) -> Tensor:
        """Return a copy of these rows (n,), (n, C)."""
        part = self.rows.index_select(0, rows)
        self._count(len(rows))
        return part

    def write(self, first: int, values: Tensor) -> None:
        """Write values (n, C) of any precision to the rows from `first` on."""
        self.rows[first : first + len(values)] = values
        self._count(len(values))

    def _count(self, rows: int) -> None:
        """Give used pages back; what was written stays in the file."""
        self._used += rows * self._row_bytes
        if self._used >= _RELEASED_AT:
            if hasattr(mmap, "MADV_DONTNEED"):  # elsewhere the system decides
                self._memory.madvise(mmap.MADV_DONTNEED)
            self._used = 0


def _reserve(descriptor: int, size: int) -> None:
    """Reserve `size` bytes for an open temporary file, so that no later write can fail."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        elif shutil.disk_usage(tempfile.gettempdir()).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            os.ftruncate(descriptor, size)
    except OSError as error:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        raise UsageError(
            f"Temporary files need {_gigabytes(size)} in {folder}, which has {_gigabytes(free)} free"
            f" ({error.strerror}). Set the environment variable TMPDIR to a folder on a disk with more space."
        ) from None


def _gigabytes(size: int) -> str:
    """Return a number of bytes in words, rounded up.

    >>> _gigabytes(1_234_000_000)
    '1.3 GB'
    """
    return f"{math.ceil(size / 1e8) / 10:.1f} GB"
