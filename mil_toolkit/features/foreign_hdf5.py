"""`read_hdf5`: read features that CLAM, TRIDENT, STAMP or others wrote as HDF5, in another process."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.reading import open_input
from mil_toolkit.core.text import printable, some
from mil_toolkit.features.foreign_content import (
    Foreign,
    ForeignProblem,
    check_coords,
    check_features,
    check_size,
    unreadable,
)
from mil_toolkit.features.isolation import Isolated, IsolatedError, Limits, run_isolated
from mil_toolkit.features.layouts import Source
from mil_toolkit.features.spec import Tile
from mil_toolkit.features.tiles import TILE_ATTRIBUTES, read_tile

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ENCODER_ATTRIBUTES = ("encoder", "extractor")  # of TRIDENT and STAMP
_MAX_ENTRIES = 1000
_MAX_ATTRIBUTE = 2**16  # bytes
_MAX_TEXT = 255  # characters
_COMPRESSIONS = frozenset({1, 4, 5, 6, 32000})  # deflate, szip, nbit, scaleoffset, lzf
_Value = TypeVar("_Value")


class _Array(NamedTuple):
    """An array on its way from one process to the other."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, values: NDArray[np.generic]) -> "_Array":
        """Return an array to send."""
        return cls(values.dtype.str, values.shape, values.tobytes())

    def values(self) -> NDArray[Any]:
        """Return the array that was sent."""
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


class _Sent(NamedTuple):
    """A feature file on its way from one process to the other; problem: why it cannot be used."""

    problem: str | None = None
    features: _Array | None = None
    coords: _Array | None = None
    encoder: str | None = None
    tile: Tile | None = None
    ignored: tuple[str, ...] = ()


def read_hdf5(path: Path, layout: Source, isolated: Isolated = run_isolated) -> Foreign:
    """Read an HDF5 file; raises ForeignProblem if it does not hold features in this layout."""
    sent = _ask(isolated, path, partial(_read, layout=layout), _Sent)
    if sent.problem is not None or sent.features is None:
        raise ForeignProblem(sent.problem or " cannot be read.")
    coords = sent.coords and sent.coords.values()
    return Foreign(sent.features.values(), coords, sent.encoder, sent.tile, sent.ignored)


def has_attribute(path: Path, dataset: str, attribute: str, isolated: Isolated = run_isolated) -> bool:
    """Return whether an HDF5 file has a dataset with this attribute; False if it cannot be read."""
    try:
        return _ask(isolated, path, partial(_has_attribute, dataset=dataset, attribute=attribute), bool)
    except ForeignProblem:
        return False


def _has_attribute(file: h5py.File, dataset: str, attribute: str) -> bool:
    return attribute in file[dataset].attrs


def _ask(isolated: Isolated, path: Path, read: Callable[[h5py.File], object], kind: type[_Value]) -> _Value:
    """Return what `read` makes of an HDF5 file in another process."""
    with open_input(path) as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise unreadable("it is not an HDF5 file")
        size = os.fstat(file.fileno()).st_size
    try:
        reply = isolated(partial(_encoded, path, read), Limits.of(size))
        return msgspec.msgpack.decode(reply, type=kind)
    except (IsolatedError, msgspec.DecodeError) as error:
        reason = (str(error).splitlines() or [""])[0].partition(". ")[0].removesuffix(".")
        raise unreadable(printable(reason)) from None


def _encoded(path: Path, read: Callable[[h5py.File], object]) -> bytes:
    with open_input(path) as file, h5py.File(file, "r") as opened:
        return msgspec.msgpack.encode(read(opened))


def _read(file: h5py.File, layout: Source) -> _Sent:
    try:
        return _read_features(file, layout)
    except ForeignProblem as problem:
        return _Sent(str(problem))


def _read_features(file: h5py.File, layout: Source) -> _Sent:
    if len(file) > _MAX_ENTRIES:
        raise unreadable(f"it has {len(file):,} entries")
    _refuse_references(file)
    _require(file, (layout.features, "coords") if layout.needs_coords else (layout.features,))
    return _Sent(
        None,
        _features(file[layout.features]),
        _coords(file["coords"]) if "coords" in file else None,
        _encoder(file, layout),
        read_tile(_texts(_places(file, layout), TILE_ATTRIBUTES)),
        tuple(sorted(file.keys() - {layout.features, "coords"})),
    )


def _require(file: h5py.File, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        held = some([printable(name) for name in sorted(file)])
        raise ForeignProblem(f" has no dataset {' nor '.join(missing)}; it holds {held or 'nothing'}.")


def _features(dataset: h5py.Dataset) -> _Array:
    _check_storage(dataset)
    check_features(dataset.dtype, dataset.shape)
    return _Array.of(dataset[()])


def _coords(dataset: h5py.Dataset) -> _Array:
    _check_storage(dataset)
    check_coords(dataset.dtype)
    return _Array.of(dataset[()])


def _check_storage(dataset: h5py.Dataset) -> None:
    """Raise ForeignProblem if a dataset is empty, or declares or expands to more than the file holds."""
    if dataset.shape is None:
        raise unreadable(f"its dataset {dataset.name} is empty")
    held = dataset.file.id.get_filesize()
    check_size(dataset.dtype, dataset.shape, held)
    filters = dataset.id.get_create_plist()
    kinds = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
    if sum(kind in _COMPRESSIONS for kind in kinds) > 1 or len(kinds) > len({*kinds}):
        raise unreadable(f"its dataset {dataset.name} is compressed several times")
    if dataset.chunks is not None:
        check_size(dataset.dtype, dataset.chunks, held)


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
    texts = ((name, _text(name, place.attrs)) for place in places for name in names if name in place.attrs)
    return {name: text for name, text in texts if text not in ("", "None")}  # TRIDENT writes None as a word


def _text(name: str, attributes: h5py.AttributeManager) -> str:
    """Return an attribute as text; of an array the first element, of an empty one nothing."""
    if attributes.get_id(name).get_storage_size() > _MAX_ATTRIBUTE:
        raise ValueError(f"its attribute {name} has more than {_MAX_ATTRIBUTE:,} bytes")
    attribute = attributes[name]
    if isinstance(attribute, h5py.Empty):
        return ""
    first = next(iter(np.asarray(attribute).ravel()), "")
    text = (first.decode(errors="replace") if isinstance(first, bytes) else str(first)).strip()
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise ValueError(f"its attribute {name} is not a printable text of up to {_MAX_TEXT} characters")
    return text


def _refuse_references(file: h5py.File) -> None:
    """Raise ForeignProblem if an entry is a link or keeps its data in another file."""
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ForeignProblem(f": {printable(name)} is a link, which is not allowed in a feature file.")
        entry = file[name]
        if isinstance(entry, h5py.Dataset) and (entry.is_virtual or entry.external):
            raise ForeignProblem(f": {printable(name)} keeps its data in other files.")
