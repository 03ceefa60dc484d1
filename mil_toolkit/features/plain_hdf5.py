"""`read_plain`: read a small part of HDF5 without libhdf5, which damaged files make loop or crash.

A plain file is what h5py writes by default for contiguous datasets of numbers and fixed-length strings in the
root group, and for its attributes of integers and texts. Everything else that HDF5 knows (links, groups,
chunks, filters, external and virtual data) is refused. Nothing is allocated that the file does not hold.

Source: HDF5 File Format Specification Version 3.0, The HDF Group: superblock version 0 (II.A), B-trees of
version 1 and symbol tables (III.A, III.B), local and global heaps (III.D, III.E), object headers of version 1
(IV.A).
"""

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SUPERBLOCK = b"\x89HDF\r\n\x1a\n" + bytes((0, 0, 0, 0, 0, 8, 8, 0))
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL = 0x1, 0x2, 0x3, 0x6, 0x7
_LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x8, 0xB, 0xC, 0x10, 0x11
_SHARED = 2  # flag of a message that is stored elsewhere
_CONTIGUOUS = b"\3\1"  # version and class of a layout
_VARIABLE_TEXT = b"\x19\x01\x01\0"
_FIXED_TEXT = b"\x13\x01\0\0"
_INTEGER = b"\x10\x08\0\0\x08\0\0\0\0\0\x40\0"
_NUMBERS: dict[bytes, np.dtype[np.generic]] = {
    b"\x11\x20\x0f\0\x02\0\0\0\0\0\x10\0\x0a\x05\0\x0a\x0f\0\0\0": np.dtype("<f2"),
    _INTEGER: np.dtype("<i8"),
    b"\x10\0\0\0\x01\0\0\0\0\0\x08\0": np.dtype("u1"),
}
# Far more than a shard has. A file that exceeds them would take long to read, or refers to itself.
_MAX_PARTS = 64  # blocks of an object header, nodes of a B-tree and symbols of a node
_MAX_MESSAGES = 256  # of an object header
_MAX_HEAP = 2**20  # bytes
_MAX_TEXT = 2**16  # bytes of a fixed-length text


class Place(NamedTuple):
    """Where a dataset lies in its file; address: of its first byte."""

    address: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> "Place":
        """Return the place of the rows from `start` to `stop`, which must exist."""
        row = self._replace(shape=self.shape[1:])
        return self._replace(address=self.address + start * row.size, shape=(stop - start, *row.shape))

    def view(self, content: bytes, offset: int = 0) -> NDArray[np.generic]:
        """Return the dataset as a view of bytes of which the first one has the address `offset`."""
        values = np.frombuffer(content, self.dtype, math.prod(self.shape), self.address - offset)
        return values.reshape(self.shape)


class PlainFile(NamedTuple):
    """The content of a file: views of its bytes, where they lie, and attributes of the root group."""

    datasets: dict[str, NDArray[np.generic]]
    places: dict[str, Place]
    attributes: dict[str, int | str]


class _Message(NamedTuple):
    """A message of an object header."""

    kind: int
    data: bytes


def read_plain(content: bytes) -> PlainFile:
    """Return all datasets and attributes of a file; raises ValueError that says why it is not plain."""
    try:
        return _read(content)
    except (struct.error, IndexError, OverflowError):
        raise ValueError("its structure is broken") from None


def _read(content: bytes) -> PlainFile:
    if not content.startswith(_SUPERBLOCK) or content[24:32] != bytes(8):
        raise ValueError("it is not an HDF5 file of the kind that h5py writes by default")
    root = _messages(content, _offset(content, 64))
    attributes = dict(_attribute(content, message.data) for message in root if message.kind == _ATTRIBUTE)
    tables = [message.data for message in root if message.kind == _SYMBOL_TABLE]
    if any(message.kind in (_LINK_INFO, _LINK) for message in root):
        raise ValueError("it contains links")
    if len(tables) != 1:
        raise ValueError("its root group has no symbol table")
    places = {
        name: _place(content, name, _messages(content, header))
        for name, header in _entries(content, *struct.unpack_from("<QQ", tables[0]))
    }
    datasets = {name: place.view(content) for name, place in places.items()}
    return PlainFile(datasets, places, attributes)


def _offset(content: bytes, position: int) -> int:
    value: int = struct.unpack_from("<Q", content, position)[0]
    return value


def _part(content: bytes, start: int, length: int) -> bytes:
    """Return bytes that must all exist."""
    if start + length > len(content):
        raise ValueError("it declares more than it holds")
    return content[start : start + length]


def _expect(content: bytes, position: int, signature: bytes) -> None:
    if _part(content, position, len(signature)) != signature:
        raise ValueError("its structure is broken")


def _messages(content: bytes, address: int) -> list[_Message]:
    """Return the messages of an object header."""
    _expect(content, address, b"\1\0")
    size: int = struct.unpack_from("<I", content, address + 8)[0]
    blocks, messages = [(address + 16, size)], list[_Message]()
    for start, length in blocks:  # grows while it is read
        for message in _messages_of_block(_part(content, start, length)):
            messages.append(message)
            if message.kind == _CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", message.data))
            if len(blocks) > _MAX_PARTS or len(messages) > _MAX_MESSAGES:
                raise ValueError("an object header is too long, or refers to itself")
    return messages


def _messages_of_block(block: bytes) -> Iterator[_Message]:
    position = 0
    while position < len(block):
        kind, length, flags = struct.unpack_from("<HHB", block, position)
        if flags & _SHARED:
            raise ValueError("a message of an object header is stored elsewhere")
        yield _Message(kind, _part(block, position + 8, length))
        position += 8 + length


def _entries(content: bytes, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """Yield the name of each object of a group, and the address of its header."""
    _expect(content, tree, b"TREE\0\0")
    _expect(content, heap, b"HEAP\0")
    count: int = struct.unpack_from("<H", content, tree + 6)[0]
    if count > _MAX_PARTS:
        raise ValueError("it holds too many objects")
    size, _, names = struct.unpack_from("<QQQ", content, heap + 8)
    texts = _part(content, names, min(size, _MAX_HEAP))
    for node in (_offset(content, tree + 32 + 16 * index) for index in range(count)):
        _expect(content, node, b"SNOD\1\0")
        symbols: int = struct.unpack_from("<H", content, node + 6)[0]
        for symbol in range(min(symbols, _MAX_PARTS)):
            name, header, cached = struct.unpack_from("<QQI", content, node + 8 + 40 * symbol)
            if cached:
                raise ValueError("it contains links" if cached == 2 else "it contains groups")
            yield _text(texts[name:].partition(b"\0")[0]), header


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _place(content: bytes, name: str, messages: list[_Message]) -> Place:
    """Return where a dataset lies in the file, which holds all its bytes."""
    parts = {message.kind: message.data for message in messages}
    if parts.keys() & {_SYMBOL_TABLE, _LINK_INFO, _LINK}:
        raise ValueError(f"{name} is a group")
    layout = parts.get(_LAYOUT, b"")
    if parts.keys() & {_EXTERNAL, _FILTERS} or not layout.startswith(_CONTIGUOUS):
        raise ValueError(f"{name} keeps data in other files or in chunks")
    shape, dtype = _shape(parts.get(_DATASPACE, b"")), _dtype(name, parts.get(_DATATYPE, b""))
    address, size = struct.unpack_from("<QQ", layout, 2)
    place = Place(address, dtype, shape)
    if place.size != size or address + size > len(content):
        raise ValueError(f"{name} declares more than it holds")
    return place


def _shape(dataspace: bytes) -> tuple[int, ...]:
    if dataspace[:1] != b"\1":
        raise ValueError("a dataspace is of another version")
    return struct.unpack_from(f"<{dataspace[1]}Q", dataspace, 8)


def _dtype(name: str, message: bytes) -> np.dtype[np.generic]:
    if message[:4] == _FIXED_TEXT:
        length: int = struct.unpack_from("<I", message, 4)[0]
        if not 0 < length <= _MAX_TEXT:
            raise ValueError(f"{name} holds texts of {length} bytes")
        return np.dtype(f"S{length}")
    for start, dtype in _NUMBERS.items():
        if message.startswith(start):
            return dtype
    raise ValueError(f"{name} has another type of values")


def _attribute(content: bytes, data: bytes) -> tuple[str, int | str]:
    """Return the name and value of an attribute, which is a single integer or text."""
    version, *sizes = struct.unpack_from("<BxHHH", data)
    if version != 1:
        raise ValueError("an attribute is of another version")
    name_end, type_end, space_end = np.cumsum([-(-size // 8) * 8 for size in sizes]).tolist()
    name = _text(data[8 : 8 + sizes[0]].rstrip(b"\0"))
    datatype, value = data[8 + name_end : 8 + type_end], data[8 + space_end :]
    if _shape(data[8 + type_end : 8 + space_end]):
        raise ValueError(f"its attribute {name} is not a single value")
    if datatype.startswith(_INTEGER):
        return name, int(struct.unpack_from("<q", value)[0])
    if datatype.startswith(_VARIABLE_TEXT):
        return name, _variable_text(content, *struct.unpack_from("<IQI", value))
    raise ValueError(f"its attribute {name} is neither an integer nor a text")


def _variable_text(content: bytes, length: int, heap: int, index: int) -> str:
    """Return a text from a global heap."""
    _expect(content, heap, b"GCOL\1")
    position, end = heap + 16, heap + min(_offset(content, heap + 8), _MAX_HEAP)
    while position < end:
        number, _, size = struct.unpack_from("<HHxxxxQ", content, position)
        if number == index:
            return _text(_part(content, position + 16, min(length, size)))
        position += 16 + -(-size // 8) * 8
    raise ValueError("a text is missing in its heap")
