"""`read_foreign`: read and check one feature file of another tool."""

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable
from mil_toolkit.features.foreign_arrays import read_npy
from mil_toolkit.features.foreign_content import Foreign, ForeignProblem
from mil_toolkit.features.foreign_hdf5 import read_hdf5
from mil_toolkit.features.isolation import Isolated, run_isolated
from mil_toolkit.features.layouts import Source

_Number = TypeVar("_Number", bound=np.number)


def read_foreign(path: Path, layout: Source, isolated: Isolated = run_isolated) -> Foreign:
    """Read a feature file; raises DataError if it cannot be read or does not have the layout.

    isolated: calls the function that reads an HDF5 file, in another process

    A leading dimension of one is dropped. Links, virtual datasets, external storage and pickled objects are
    refused, and so is a file that declares more than it holds. Raises UsageError if it may not be read.
    """
    try:
        foreign = _read(path, layout, isolated)
    except ForeignProblem as problem:
        raise DataError(f"{printable(path)}{problem}") from None
    except FileNotFoundError:
        raise DataError(f"{printable(path)} does not exist any more.") from None
    features, coords = _one_bag(foreign.features), foreign.coords
    coords = None if coords is None else _one_bag(coords)
    if coords is not None and coords.shape != (len(features), 2):
        raise DataError(f"{printable(path)}: coords {coords.shape} do not fit {len(features)} features.")
    return foreign._replace(features=features, coords=coords)


def _one_bag(values: NDArray[_Number]) -> NDArray[_Number]:
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _read(path: Path, layout: Source, isolated: Isolated) -> Foreign:
    match path.suffix.lower():
        case ".pt":
            # Imports torch, without which a process needs less time to start, and to fork for HDF5 files.
            from mil_toolkit.features.foreign_tensors import read_tensor

            return Foreign(read_tensor(path))
        case ".npy":
            return Foreign(read_npy(path))
    return read_hdf5(path, layout, isolated)
