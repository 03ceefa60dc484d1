"""`read_foreign`: read and check one feature file of another tool."""

import pickle
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable
from mil_toolkit.features.layouts import Layout

_UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError)


class Foreign(NamedTuple):
    """The content of a feature file.

    features: (N, D), in the file's own precision
    coords: (N, 2), None if the file has none
    encoder: name of the network, None if the file does not say
    """

    features: NDArray[np.floating]
    coords: NDArray[np.number] | None
    encoder: str | None


def read_foreign(path: Path, layout: Layout) -> Foreign:
    """Read a feature file; raises DataError if it cannot be read or does not have the layout.

    A leading dimension of one is dropped. Links, virtual datasets and external storage are refused.
    """
    try:
        foreign = _read_tensor(path) if path.suffix == ".pt" else _read_hdf5(path, layout)
    except _UNREADABLE as error:
        raise DataError(f"{printable(path)} cannot be read: {str(error).splitlines()[0]}.") from None
    features = foreign.features[0] if _has_leading_one(foreign.features) else foreign.features
    if features.ndim != 2 or not features.size or not np.issubdtype(features.dtype, np.floating):
        actual = f"{features.dtype} {foreign.features.shape}"
        raise DataError(
            f"{printable(path)}: expected features (N, D) of floating-point numbers, got {actual}."
        )
    coords = foreign.coords
    if coords is not None and _has_leading_one(coords):
        coords = coords[0]
    if coords is not None and coords.shape != (len(features), 2):
        raise DataError(f"{printable(path)}: coords {coords.shape} do not fit {len(features)} features.")
    return Foreign(features, coords, foreign.encoder)


def to_float16(path: Path, features: NDArray[np.floating]) -> NDArray[np.float16]:
    """Convert features to float16 by way of float32; raises DataError if the result would not be finite.

    path: of the features, for the error
    """
    if not np.isfinite(features).all():
        raise DataError(
            f"{printable(path)}: {np.count_nonzero(~np.isfinite(features))} values are not finite."
        )
    with np.errstate(over="ignore"):
        converted = features.astype(np.float32).astype(np.float16)
    if not np.isfinite(converted).all():
        raise DataError(f"{printable(path)}: values of up to {np.abs(features).max():.3g} exceed float16.")
    return converted


def _has_leading_one(values: NDArray[np.number]) -> bool:
    return values.ndim == 3 and len(values) == 1


def _read_tensor(path: Path) -> Foreign:
    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"it holds {type(tensor).__name__} instead of one tensor")
    return Foreign((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(), None, None)


def _read_hdf5(path: Path, layout: Layout) -> Foreign:
    with h5py.File(path, "r", locking=False) as file:
        _refuse_references(path, file)
        missing = [
            name for name in (layout.features, "coords") if not isinstance(file.get(name), h5py.Dataset)
        ]
        if missing:
            raise DataError(
                f"{printable(path)} has no dataset {' nor '.join(missing)}; it holds {sorted(file)}."
            )
        return Foreign(file[layout.features][()], file["coords"][()], _encoder(file, layout))


def _encoder(file: h5py.File, layout: Layout) -> str | None:
    if layout.encoder is None:
        return None
    place = file[layout.encoder.dataset] if layout.encoder.dataset else file
    encoder = place.attrs.get(layout.encoder.name)
    return None if encoder in (None, "None") else str(encoder)  # TRIDENT writes the word if it has no name


def _refuse_references(path: Path, file: h5py.File) -> None:
    """Raise DataError if an entry is a link or keeps its data in another file."""
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{printable(path)}: {name} is a link, which is not allowed in a feature file.")
        entry = file[name]
        if isinstance(entry, h5py.Dataset) and (entry.is_virtual or entry.external):
            raise DataError(f"{printable(path)}: {name} keeps its data in other files.")
