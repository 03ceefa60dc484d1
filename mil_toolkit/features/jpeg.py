"""`find_damage`: errors in a JPEG's data that Pillow's decoder passes over.

libjpeg replaces what it cannot read by grey or by stripes and only warns, and Pillow does not pass the
warnings on. So simplejpeg, which is based on the same library, reads each JPEG once more and reports them;
its pixels are not used. benchmarks/jpeg.py measures which kinds of damage are recognised.
"""

import re

import simplejpeg  # type: ignore[import-untyped]

_WARNINGS = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_PROFILE = "bad ICC marker"  # not damage of the pixels; `colour` reports it
ZERO_RUN = 64  # bytes
_ZEROS = re.compile(rb"\0{%d}" % ZERO_RUN)
_START_OF_FRAME, _HUFFMAN_TABLES, _START_OF_SCAN = 0xC0, 0xC4, 0xDA
_SEQUENTIAL = (0xC0, 0xC1)
_STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_END_OF_BLOCK = 0x00


def find_damage(content: bytes) -> str | None:
    """Return what is wrong with the data of a JPEG, None if nothing is known to be."""
    try:
        # The smallest picture takes the least time, and the compressed data are read to the end all the same.
        simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        message = str(error)
        if message.startswith(_WARNINGS) and _PROFILE not in message:
            return message
    return f"a run of {ZERO_RUN} or more zeros in the image data" if _has_zero_run(content) else None


def _has_zero_run(content: bytes) -> bool:
    """Return whether the data of a sequential JPEG contain zeros that no encoder writes.

    Zeros are valid codes, often of enough blocks for no error. If the code of zeros alone ends a block, then
    a uniform area is such a run; otherwise each block would have the same 63 coefficients.
    """
    if not _ZEROS.search(content):
        return False
    frame, first_symbols, start = _read_headers(content)
    plausible = frame not in _SEQUENTIAL or _END_OF_BLOCK in first_symbols
    return not plausible and _ZEROS.search(content, start) is not None


def _read_headers(content: bytes) -> tuple[int, set[int], int]:
    """Return the frame's marker, the symbol of the first code of each AC table, and where the data begin."""
    frame, first_symbols, position = 0, set[int](), 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF or content[position] != 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4])
        if marker == _HUFFMAN_TABLES:
            first_symbols |= _first_symbols(content[position + 4 : end])
        elif _START_OF_FRAME <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            frame = marker
        elif marker == _START_OF_SCAN:
            return frame, first_symbols, end
        position = end
    return frame, first_symbols, len(content)


def _first_symbols(tables: bytes) -> set[int]:
    """Return the first symbol of each AC table in a segment of Huffman tables."""
    symbols, position = set[int](), 0
    while position + 17 < len(tables):
        if tables[position] >> 4:  # 1 for AC, 0 for DC
            symbols.add(tables[position + 17])
        position += 17 + sum(tables[position + 1 : position + 17])
    return symbols
