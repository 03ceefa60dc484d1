"""Hypothesis strategies that damage files: their bytes, JSON values, tables and HDF5 datasets."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

Draw = st.DrawFn
Key = str | int
DEEP, HUGE = "DEEP", "HUGE"  # stand for what json.dumps cannot write

ODD_VALUES: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    10**9,
    2**63,
    2**64 - 1,
    10**400,
    0.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    HUGE,
    "",
    "text",
    "NaN",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\x1b[31mred",
    "two\nlines",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    ["x", 1, None],
    {"x": {"y": [1]}},
    DEEP,
)


@st.composite
def damaged_bytes(draw: Draw, content: bytes) -> bytes:
    """Flip, remove, insert or repeat a few bytes."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64, 1000)))
        kind = draw(st.sampled_from(("flip", "set", "cut", "end", "insert", "repeat", "zero")))
        part = content[place : place + length]
        match kind:
            case "flip":
                part = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in part[:1])
                content = content[:place] + part + content[place + len(part) :]
            case "set":
                part = bytes([draw(st.sampled_from((0, 1, 127, 128, 255)))]) * len(part[:8])
                content = content[:place] + part + content[place + len(part) :]
            case "cut":
                content = content[:place] + content[place + length :]
            case "end":
                content = content[:place]
            case "insert":
                content = content[:place] + draw(st.binary(min_size=1, max_size=8)) + content[place:]
            case "repeat":
                content = content[:place] + part + content[place:]
            case "zero":
                content = content[:place] + bytes(len(part)) + content[place + length :]
    return content


def paths_of(value: object, path: tuple[Key, ...] = ()) -> Iterator[tuple[Key, ...]]:
    """Yield the path of every value in parsed JSON, the whole one first; of a list its first three items."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_of(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value[:3]):
            yield from paths_of(item, (*path, place))


def value_at(value: Any, path: Sequence[Key]) -> Any:
    """Return the value at a path."""
    for key in path:
        value = value[key]
    return value


def replaced_at(value: Any, path: Sequence[Key], new: object) -> Any:
    """Return a copy of parsed JSON with another value at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced_at(value[path[0]], path[1:], new)
    return copy


@st.composite
def damaged_json(draw: Draw, value: Any) -> Any:
    """Replace, remove, rename, add or repeat a few values of parsed JSON."""
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(paths_of(value))))
        kind = draw(st.sampled_from(("odd", "odd", "odd", "scaled", "remove", "add", "repeat", "exchange")))
        value = _damaged_at(draw, value, path, kind)
    return value


def _damaged_at(draw: Draw, value: Any, path: tuple[Key, ...], kind: str) -> Any:
    old = value_at(value, path)
    if kind == "odd":
        return replaced_at(value, path, draw(st.sampled_from(ODD_VALUES)))
    if kind == "scaled" and isinstance(old, int | float):
        return replaced_at(value, path, draw(st.sampled_from((old + 1, -old, old * 2, old / 2, str(old)))))
    if kind == "exchange":
        other = draw(st.sampled_from(list(paths_of(value))))
        return replaced_at(value, path, value_at(value, other))
    parent = value_at(value, path[:-1]) if path else None
    if isinstance(parent, dict) and kind == "remove":
        return replaced_at(value, path[:-1], {key: item for key, item in parent.items() if key != path[-1]})
    if isinstance(parent, list) and kind in ("remove", "repeat"):
        place = int(path[-1])
        middle = [] if kind == "remove" else [parent[place], parent[place]]
        return replaced_at(value, path[:-1], [*parent[:place], *middle, *parent[place + 1 :]])
    if isinstance(old, dict) and kind == "add":
        return replaced_at(value, path, {**old, draw(st.sampled_from(("x", "", "a\x1b[1m"))): 1})
    return replaced_at(value, path, draw(st.sampled_from(ODD_VALUES)))


def dumped(value: object) -> str:
    """Return JSON text, with the odd values that JSON does not have."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{HUGE}"', "1e999")


@st.composite
def damaged_json_file(draw: Draw, content: bytes) -> bytes:
    """Damage the values of a JSON file, or its bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes(content))
    return dumped(draw(damaged_json(json.loads(content)))).encode(errors="surrogatepass")


ODD_CELLS = (
    "",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "2",
    "7",
    "0.5",
    "text",
    "P001",
    "=1+1",
    "a\x1b[31mb",
    "ü" * 300,
    '"',
    '"a,b"',
    "a,b,c",
    "9" * 400,
    "1,5",
    "\u202e",
    "x" * 200_000,
    "../../../etc/passwd",
    "/dev/zero",
    "a\\b",
)


@st.composite
def damaged_csv(draw: Draw, content: bytes) -> bytes:
    """Replace cells, or remove, repeat and exchange rows of a table, or damage its bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes(content))
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(draw(st.integers(1, 2))):
        row = draw(st.integers(0, len(rows) - 1))
        column = draw(st.integers(0, len(rows[row]) - 1))
        kind = draw(st.sampled_from(("cell", "cell", "cell", "remove", "repeat", "exchange", "column")))
        match kind:
            case "cell":
                rows[row][column] = draw(st.sampled_from(ODD_CELLS))
            case "remove" if len(rows) > 1:
                del rows[row]
            case "repeat":
                rows.insert(draw(st.integers(0, len(rows))), list(rows[row]))
            case "exchange":
                other = draw(st.integers(0, len(rows) - 1))
                rows[row], rows[other] = rows[other], rows[row]
            case "column":
                rows = [cells[:column] + cells[column + 1 :] for cells in rows]
                rows = [cells or [""] for cells in rows]
    return "\n".join(map(",".join, rows)).encode() + b"\n"


ODD_ATTRIBUTES: tuple[object, ...] = (
    0,
    -1,
    2**62,
    np.uint64(2**64 - 1),
    float("nan"),
    float("inf"),
    0.5,
    "",
    "text",
    "\x1b[31mred",
    b"\xff\xfe",
    [1, 2],
    np.zeros((2, 2)),
    np.zeros(0),
    h5py.Empty("f4"),
    True,
    1j,
)
ODD_ARRAYS: tuple[object, ...] = (
    0,
    "text",
    b"bytes",
    np.zeros(0),
    np.zeros((0, 3)),
    np.float64("nan"),
    h5py.Empty("f4"),
    np.array(["a", "b"], dtype=h5py.string_dtype()),
    np.zeros(3, dtype=[("x", "f4"), ("y", "i4")]),
    np.zeros((2, 2, 2, 2)),
    np.array([1j, 2j]),
    np.array([True, False]),
)
DTYPES = ("f2", "f4", "f8", "i1", "i8", "u8", "S4", "c8", "?")
NUMBERS = (float("nan"), float("inf"), 0, -1, 1, 7, 10**6, 2**31, 2**62, 65504, 1e300)


@st.composite
def damaged_hdf5(draw: Draw, content: bytes) -> bytes:
    """Change attributes, shapes, types and values of an HDF5 file, or damage its bytes."""
    if draw(st.integers(0, 5)) == 0:
        return draw(damaged_bytes(content))
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        for _ in range(draw(st.integers(1, 2))):
            names = _names(file)
            if not names:
                break
            name = draw(st.sampled_from(names))
            kind = draw(st.sampled_from(("attribute", "values", "values", "shape", "type", "odd", "entry")))
            _HDF5[kind](draw, file, name)
    return buffer.getvalue()


def _names(file: h5py.File) -> list[str]:
    """Return the names in a file, without links to nothing and links in a circle."""
    names = []
    for name in sorted(file):
        with contextlib.suppress(RuntimeError):
            names += [name] if file.get(name) is not None else []
    return names


def _damage_attribute(draw: Draw, file: h5py.File, name: str) -> None:
    places = [place for place in (file, *map(file.get, _names(file))) if place is not None and place.attrs]
    if places:
        place = draw(st.sampled_from(places))
        attribute = draw(st.sampled_from(sorted(place.attrs)))
        if draw(st.booleans()):
            place.attrs[attribute] = draw(st.sampled_from(ODD_ATTRIBUTES))
        else:
            del place.attrs[attribute]


def _replace(file: h5py.File, name: str, values: object) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def _array(file: h5py.File, name: str) -> np.ndarray | None:
    entry = file[name]
    return entry[()] if isinstance(entry, h5py.Dataset) and entry.shape and entry.size < 10**6 else None


def _damage_values(draw: Draw, file: h5py.File, name: str) -> None:
    values = _array(file, name)
    if values is None or not values.size:
        return
    flat = values.ravel().copy()
    place = draw(st.integers(0, len(flat) - 1))
    if values.dtype.kind in "fiu":
        with np.errstate(all="ignore"):
            number = np.array(draw(st.sampled_from(NUMBERS)), dtype="f8")
            flat[place] = number.astype(values.dtype)
    elif values.dtype.kind == "S":
        flat[place] = draw(st.sampled_from((b"", b"x", b"\xff", b"\x1b[1m", bytes(flat[0]))))
    _replace(file, name, flat.reshape(values.shape))


def _damage_shape(draw: Draw, file: h5py.File, name: str) -> None:
    values = _array(file, name)
    if values is None:
        return
    kind = draw(st.sampled_from(("flat", "deeper", "shorter", "longer", "narrow", "empty", "scalar", "huge")))
    match kind:
        case "flat":
            _replace(file, name, values.ravel())
        case "deeper":
            _replace(file, name, values[None])
        case "shorter":
            _replace(file, name, values[:-1])
        case "longer":
            _replace(file, name, np.concatenate([values, values[:1]]))
        case "narrow" if values.ndim > 1:
            _replace(file, name, values[:, :-1])
        case "empty":
            _replace(file, name, values[:0])
        case "scalar" if values.size:
            _replace(file, name, values.ravel()[0])
        case "huge":
            attributes, dtype = dict(file[name].attrs), values.dtype
            rows = draw(st.sampled_from((10**7, 10**9, 2**40)))
            del file[name]
            file.create_dataset(name, (rows, *values.shape[1:]), dtype, chunks=(1, *values.shape[1:]))
            file[name].attrs.update(attributes)


def _damage_type(draw: Draw, file: h5py.File, name: str) -> None:
    values = _array(file, name)
    if values is None:
        return
    try:
        with np.errstate(all="ignore"):
            _replace(file, name, values.astype(draw(st.sampled_from(DTYPES))))
    except (ValueError, TypeError, OverflowError):
        return


def _damage_odd(draw: Draw, file: h5py.File, name: str) -> None:
    _replace(file, name, draw(st.sampled_from(ODD_ARRAYS)))


def _damage_entry(draw: Draw, file: h5py.File, name: str) -> None:
    kind = draw(st.sampled_from(("remove", "add", "group", "soft", "external", "virtual", "committed")))
    if kind == "add":
        file["extra\x1b[1m"] = 1
        return
    old = _array(file, name)
    del file[name]
    match kind:
        case "group":
            file.create_group(name)
        case "soft":
            file[name] = h5py.SoftLink("/" + name)
        case "external":
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        case "virtual" if old is not None and old.ndim:
            layout = h5py.VirtualLayout(old.shape, old.dtype)
            layout[...] = h5py.VirtualSource("other.h5", "x", old.shape)
            file.create_virtual_dataset(name, layout)
        case "committed":
            file[name] = np.dtype("f4")


_HDF5: dict[str, Callable[[Draw, h5py.File, str], None]] = {
    "attribute": _damage_attribute,
    "values": _damage_values,
    "shape": _damage_shape,
    "type": _damage_type,
    "odd": _damage_odd,
    "entry": _damage_entry,
}
