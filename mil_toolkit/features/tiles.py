"""`read_tile` and `tile_problems`: the size and resolution of the tiles behind imported features."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.core.text import count_of, printable, some
from mil_toolkit.features.spec import Tile


def read_tile(attributes: Mapping[str, str]) -> Tile | None:
    """Return what the attributes of a feature file say about its tiles, None if they say nothing.

    attributes: of the file and its datasets, those named in TILE_ATTRIBUTES: `tile_size_um` and
        `tile_size_px` of STAMP (before 2.1 `tile_size`, in micrometres), `patch_size`, `target_magnification`
        and the sizes at level 0 of TRIDENT, `patch_size`, `patch_level` and `downsample` of CLAM. The
        artificial grid of an export of this toolkit counts as nothing.

    The size at level 0 serves only to compute a magnification that is not stated: slides that were scanned at
    different magnifications have the same tiles if they were cut at the same target magnification.

    Raises ValueError if an attribute is not a number.
    """
    if "synthetic" in attributes:
        return None
    stated = _Stated(*(_number(name, attributes.get(name)) for name in _Stated._fields))
    if attributes.get("unit") != "um":
        stated = stated._replace(tile_size=None)
    return _micrometres(stated) or _magnified(stated)


class _Stated(NamedTuple):
    """The attributes of a file that say something about its tiles; None for those that are absent."""

    tile_size_um: float | None
    tile_size_px: float | None
    tile_size: float | None
    patch_size: float | None
    patch_size_level0: float | None
    target_magnification: float | None
    level0_magnification: float | None
    patch_level: float | None
    downsample: float | None


TILE_ATTRIBUTES = (*_Stated._fields, "unit", "synthetic")


def _number(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]+[.]?[0-9]*(e[+-]?[0-9]+)?x?", text, re.IGNORECASE):  # also 20x
        raise ValueError(f"its attribute {name} is {text!r} instead of a number")
    return float(text.lower().removesuffix("x"))


def _micrometres(stated: _Stated) -> Tile | None:
    size = stated.tile_size if stated.tile_size_um is None else stated.tile_size_um
    if size is None:
        return None
    tile: Tile = {"size_um": size}
    if stated.tile_size_px is not None:
        tile["size_px"] = stated.tile_size_px
    return tile


def _magnified(stated: _Stated) -> Tile | None:
    if not stated.patch_size:
        return None
    tile: Tile = {"size_px": stated.patch_size}
    scale = stated.patch_size_level0 and stated.patch_size_level0 / stated.patch_size
    if stated.target_magnification is not None:
        return {**tile, "magnification": stated.target_magnification}
    if scale and stated.level0_magnification is not None:
        return {**tile, "magnification": _rounded(stated.level0_magnification / scale)}
    if downsample := scale or stated.downsample:
        tile["downsample"] = _rounded(downsample)
    if stated.patch_level is not None:
        tile["level"] = stated.patch_level
    return tile


def _rounded(ratio: float) -> float:
    """Round a ratio of sizes, which are themselves rounded to whole pixels: 4.0003 stands for 4."""
    return float(f"{ratio:.2g}" if ratio < 10 else f"{ratio:.3g}")


def tile_problems(tiles: Mapping[Path, Tile | None]) -> list[str]:
    """Return the lines of an error that names one file of every kind, if the files state different tiles.

    Files that state nothing do not count, see `silent_files`.
    """
    groups: dict[str, list[str]] = {}
    for path, tile in tiles.items():
        if tile:
            groups.setdefault(_as_text(tile), []).append(printable(path))
    if len(groups) < 2:
        return []
    heading = (
        "The files mix tiles of different sizes or magnifications. Import each kind separately, from its own"
        " folder or with a --table of its slides: each gets its own cache. An example of each:"
    )
    examples = (f"{paths[0]}: {text} ({count_of(len(paths), 'file')})." for text, paths in groups.items())
    return [heading, *examples]


def silent_files(tiles: Mapping[Path, Tile | None]) -> str | None:
    """Return a warning about the files that do not state their tile although others do, None without any."""
    silent = [printable(path) for path, tile in tiles.items() if not tile]
    if not silent or len(silent) == len(tiles):
        return None
    return (
        f"Size and magnification of tiles are not stated in {len(silent)} of {count_of(len(tiles), 'file')},"
        f" which are assumed to match the others: {some(silent)}."
    )


def _as_text(tile: Tile) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sorted(tile.items()))
