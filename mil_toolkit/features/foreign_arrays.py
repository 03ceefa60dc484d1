"""`read_npy`: read features that NumPy wrote."""

import io
import math
import os
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mil_toolkit.core.reading import open_input
from mil_toolkit.features.foreign_content import check_features, check_size, unreadable

_HEADER_BYTES = 2**16
_VERSIONS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(path: Path) -> NDArray[np.floating]:
    """Read an .npy file; raises ForeignProblem if it does not hold features."""
    with open_input(path) as file:
        start = io.BytesIO(file.read(_HEADER_BYTES))
        try:
            read_header = _VERSIONS[npy.read_magic(start)]
            shape, is_fortran, dtype = read_header(start)
        except Exception:  # noqa: BLE001 - NumPy evaluates the header as a literal
            raise unreadable("it is not a file that numpy.save wrote") from None
        check_features(dtype, shape)
        held, size = os.fstat(file.fileno()).st_size - start.tell(), math.prod(shape) * dtype.itemsize
        check_size(dtype, shape, held)
        if size > held:
            raise unreadable(f"it declares {size:,} bytes of data, and holds {held:,}")
        file.seek(start.tell())
        values: NDArray[np.floating] = np.frombuffer(file.read(size), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")
