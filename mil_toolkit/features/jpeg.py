"""`find_damage`: errors in a JPEG's data that Pillow's decoder passes over.

libjpeg replaces what it cannot read by grey or by stripes and only warns, and Pillow does not pass the
warnings on. So simplejpeg, which is based on the same library, reads each JPEG once more and reports them;
its pixels are not used. benchmarks/jpeg.py measures which kinds of damage are recognised.
"""

from collections.abc import Iterator
from typing import NamedTuple

import simplejpeg  # type: ignore[import-untyped]

_WARNINGS = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_PROFILE = "bad ICC marker"  # not damage of the pixels; `colour` reports it
ZERO_RUN = 64  # bytes
_MARKER, _HUFFMAN_TABLES, _START_OF_SCAN = 0xFF, 0xC4, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_END_OF_BLOCK = 0x00


def find_damage(content: bytes, notes: list[str]) -> str | None:
    """Return what is wrong with the data of a JPEG, None if nothing is known to be.

    notes: gets a line if simplejpeg cannot read this kind of JPEG, such as CMYK with subsampling
    """
    try:
        # The smallest picture takes the least time, and the compressed data are read to the end all the same.
        simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        message = str(error)
        if message.startswith(_WARNINGS) and _PROFILE not in message:
            return message
        if _PROFILE not in message:
            notes.append("this kind of JPEG cannot be checked for damage.")
    return f"a run of {ZERO_RUN} or more zeros in the image data" if _has_zero_run(content) else None


def _has_zero_run(content: bytes) -> bool:
    """Return whether the data of a sequential JPEG contain zeros that no encoder writes.

    Zeros are valid codes, often of as many blocks as are needed. If zeros are the code that ends a block, in
    the tables of all components, then a uniform area is such a run. Otherwise whole blocks of a component
    would have 63 times the same coefficient.
    """
    if bytes(ZERO_RUN) not in content:
        return False
    headers = _read_headers(content)
    plausible = headers.frame not in _SEQUENTIAL or headers.first_symbols <= {_END_OF_BLOCK}
    return not plausible and content.find(bytes(ZERO_RUN), headers.data) >= 0


class _Headers(NamedTuple):
    """Of the first scan of a JPEG.

    frame: the marker of its process; 0 if the scan does not have all components
    first_symbols: of the first code in each AC table that it uses, which consists of zeros
    data: position of the compressed data
    """

    frame: int
    first_symbols: set[int]
    data: int


def _read_headers(content: bytes) -> _Headers:
    frame, components, tables = 0, 0, dict[int, int]()
    for marker, start, end in _segments(content):
        if marker == _HUFFMAN_TABLES:
            tables |= _first_symbols(content[start:end])
        elif marker in _FRAMES:
            frame, components = marker, content[start + 5]
        elif marker == _START_OF_SCAN:
            selectors = content[start + 2 : start + 1 + 2 * content[start] : 2]
            used = {tables.get(selector & 15, _END_OF_BLOCK) for selector in selectors}
            return _Headers(frame if content[start] == components else 0, used, end)
    return _Headers(0, set(), len(content))


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment before the compressed data, and where its content starts and ends."""
    position = 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != _MARKER or marker == _MARKER:  # a marker may follow any number of 0xFF
            position += 1
        elif marker in _STANDALONE:
            position += 2
        else:
            end = position + 2 + int.from_bytes(content[position + 2 : position + 4])
            yield marker, position + 4, end
            position = end


def _first_symbols(segment: bytes) -> dict[int, int]:
    """Return the first symbol of each AC table in a segment of Huffman tables, by the table's number."""
    symbols, position = dict[int, int](), 0
    while position + 17 < len(segment):
        if segment[position] >> 4:  # 1 for AC, 0 for DC
            symbols[segment[position] & 15] = segment[position + 17]
        position += 17 + sum(segment[position + 1 : position + 17])
    return symbols
