"""`Foreign`: the content of a feature file of another tool, and checks that come before it is read."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.reading import MEBIBYTE
from mil_toolkit.features.spec import Tile

_NUMBERS = "fiu"  # kinds of dtypes
_MAX_BYTES = 4095 * MEBIBYTE  # 700,000 tiles with embeddings (1536,) in float32
_SMALL_BYTES = 64 * MEBIBYTE
_MAX_EXPANSION = 32  # features in float32 are compressed to a half, at best; constants compress better


class ForeignProblem(Exception):
    """What is wrong with a feature file: the rest of a sentence that starts with its path."""


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


def unreadable(reason: str) -> ForeignProblem:
    """Return the error for a file that cannot be read; reason: a clause."""
    return ForeignProblem(f" cannot be read: {reason}.")


def check_features(dtype: np.dtype[np.generic], shape: Sequence[int]) -> None:
    """Raise ForeignProblem unless an array of this type and shape can be features (N, D) or (1, N, D)."""
    is_bag = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    if not is_bag or min(shape) < 1 or dtype.kind != "f":
        raise ForeignProblem(
            f": expected features (N, D) of floating-point numbers, got {dtype} {tuple(shape)}."
        )


def check_coords(dtype: np.dtype[np.generic]) -> None:
    """Raise ForeignProblem unless an array of this type can be coordinates."""
    if dtype.kind not in _NUMBERS:
        raise ForeignProblem(f": expected coords that are numbers, got {dtype}.")


def check_size(dtype: np.dtype[np.generic], shape: Sequence[int], held: int) -> None:
    """Raise ForeignProblem if an array is larger than a file of `held` bytes plausibly holds."""
    declared = math.prod(shape) * dtype.itemsize
    if declared > min(_MAX_BYTES, _SMALL_BYTES + _MAX_EXPANSION * held):
        raise unreadable(
            f"it declares {declared / MEBIBYTE:,.0f} MiB of data {tuple(shape)}, and has {held:,} bytes"
        )
