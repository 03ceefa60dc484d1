"""`read_foreign`: read and check one feature file of another tool."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable
from mil_toolkit.features.layouts import Source
from mil_toolkit.features.spec import Tile
from mil_toolkit.features.tiles import TILE_ATTRIBUTES, read_tile

_ENCODER_ATTRIBUTES = ("encoder", "extractor")  # of TRIDENT and STAMP


class Foreign(NamedTuple):
    """The content of a feature file.

    features: (N, D), in the file's own precision
    coords: (N, 2), None if the file has none
    encoder: name of the network, None if the file does not say
    tile: None if the file does not say
    ignored: names of entries that are not imported, such as `labels`
    """

    features: NDArray[np.floating]
    coords: NDArray[np.number] | None = None
    encoder: str | None = None
    tile: Tile | None = None
    ignored: tuple[str, ...] = ()


def read_foreign(path: Path, layout: Source) -> Foreign:
    """Read a feature file; raises DataError if it cannot be read or does not have the layout.

    A leading dimension of one is dropped. Links, virtual datasets, external storage and pickled objects are
    refused.
    """
    try:
        foreign = _read(path, layout)
    except DataError:
        raise
    except pickle.UnpicklingError:  # its text advises to run the code in the file
        raise DataError(
            f"{printable(path)} cannot be read: it is not one tensor, as torch.save(tensor, path) writes it."
        ) from None
    except Exception as error:  # for a damaged file, h5py, torch and NumPy raise nearly anything
        lines = str(error).splitlines() or [type(error).__name__]
        reason = lines[0].partition(". ")[0].removesuffix(".")
        raise DataError(f"{printable(path)} cannot be read: {reason}.") from error
    features = foreign.features[0] if _has_leading_one(foreign.features) else foreign.features
    if features.ndim != 2 or not features.size or not np.issubdtype(features.dtype, np.floating):
        actual = f"{features.dtype} {features.shape}"
        raise DataError(
            f"{printable(path)}: expected features (N, D) of floating-point numbers, got {actual}."
        )
    return foreign._replace(features=features, coords=_checked_coords(path, foreign.coords, len(features)))


def _checked_coords(path: Path, coords: NDArray[np.number] | None, count: int) -> NDArray[np.number] | None:
    if coords is not None and _has_leading_one(coords):
        coords = coords[0]
    if coords is not None and coords.shape != (count, 2):
        raise DataError(f"{printable(path)}: coords {coords.shape} do not fit {count} features.")
    if coords is not None and not np.issubdtype(coords.dtype, np.number):
        raise DataError(f"{printable(path)}: expected coords that are numbers, got {coords.dtype}.")
    return coords


def _has_leading_one(values: NDArray[np.number]) -> bool:
    return values.ndim == 3 and len(values) == 1


def _read(path: Path, layout: Source) -> Foreign:
    match path.suffix.lower():
        case ".pt":
            return Foreign(_read_tensor(path))
        case ".npy":
            return Foreign(_read_array(path))
    return _read_hdf5(path, layout)


def _read_tensor(path: Path) -> NDArray[np.floating]:
    _check_start(path, (b"PK", b"\x80\x02"), "torch.save")  # since version 1.6 and before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"it holds {type(tensor).__name__} instead of one tensor")
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    values: NDArray[np.floating] = tensor.detach().resolve_neg().numpy()
    return values


def _read_array(path: Path) -> NDArray[np.floating]:
    _check_start(path, (b"\x93NUMPY",), "numpy.save")
    values: NDArray[np.floating] = np.load(path, allow_pickle=False)
    return values


def _check_start(path: Path, starts: tuple[bytes, ...], writer: str) -> None:
    """Raise ValueError if a file does not start as those of its kind do; readers' own errors are obscure."""
    with path.open("rb") as file:
        if not file.read(8).startswith(starts):
            raise ValueError(f"it is not a file that {writer} wrote")


def _read_hdf5(path: Path, layout: Source) -> Foreign:
    with h5py.File(path, "r", locking=False) as file:
        _refuse_references(path, file)
        _require(path, file, (layout.features, "coords") if layout.needs_coords else (layout.features,))
        return Foreign(
            _values(file[layout.features]),
            _values(file["coords"]) if "coords" in file else None,
            _encoder(file, layout),
            read_tile(_texts(_places(file, layout), TILE_ATTRIBUTES)),
            tuple(sorted(file.keys() - {layout.features, "coords"})),
        )


def _require(path: Path, file: h5py.File, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise DataError(f"{printable(path)} has no dataset {' nor '.join(missing)}; it holds {sorted(file)}.")


def _values(dataset: h5py.Dataset) -> NDArray[np.floating]:
    if dataset.shape is None:
        raise ValueError(f"its dataset {dataset.name} is empty")
    values: NDArray[np.floating] = np.asarray(dataset[()])
    return values


def _encoder(file: h5py.File, layout: Source) -> str | None:
    """Return the network that the file names in the attribute of any tool."""
    names = {
        name for place in _places(file, layout) for name in _texts([place], _ENCODER_ATTRIBUTES).values()
    }
    if len(names) > 1:
        raise ValueError(f"it names several encoders: {', '.join(sorted(names))}")
    return next(iter(names), None)


def _places(file: h5py.File, layout: Source) -> list[h5py.HLObject]:
    """Return the objects that have attributes of interest."""
    return [file, *(file[name] for name in ("coords", layout.features) if name in file)]


def _texts(places: Sequence[h5py.HLObject], names: Sequence[str]) -> dict[str, str]:
    """Return the attributes of these names as text; those that are absent or empty are left out."""
    texts = ((name, _text(place.attrs[name])) for place in places for name in names if name in place.attrs)
    return {name: text for name, text in texts if text not in ("", "None")}  # TRIDENT writes None as a word


def _text(attribute: object) -> str:
    """Return an attribute as text; of an array the first element, of an empty one nothing."""
    if isinstance(attribute, h5py.Empty):
        return ""
    first = next(iter(np.asarray(attribute).ravel()), "")
    return (first.decode(errors="replace") if isinstance(first, bytes) else str(first)).strip()


def _refuse_references(path: Path, file: h5py.File) -> None:
    """Raise DataError if an entry is a link or keeps its data in another file."""
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{printable(path)}: {name} is a link, which is not allowed in a feature file.")
        entry = file[name]
        if isinstance(entry, h5py.Dataset) and (entry.is_virtual or entry.external):
            raise DataError(f"{printable(path)}: {name} keeps its data in other files.")
