"""`to_float16`: convert features to the precision of every cache, and notice what it cannot hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable, some

_TOLERANCE = 2.0**-10  # of the largest value; rounding of values that are not too small stays below 2**-11


class Loss(NamedTuple):
    """What the conversion of one file does to each column of its features; (D,) each.

    peaks: largest absolute values
    errors: largest absolute differences between a value and its float16
    """

    peaks: NDArray[np.float64]
    errors: NDArray[np.float64]


def to_float16(path: Path, features: NDArray[np.floating]) -> NDArray[np.float16]:
    """Convert features (N, D) to float16 by way of float32; raises DataError if the result is not finite.

    path: of the features, for the error
    """
    if not np.isfinite(features).all():
        raise DataError(
            f"{printable(path)}: {np.count_nonzero(~np.isfinite(features))} values are not finite."
        )
    with np.errstate(over="ignore", under="ignore"):
        converted = features.astype(np.float32).astype(np.float16)
    if not np.isfinite(converted).all():
        raise DataError(f"{printable(path)}: values of up to {np.abs(features).max():.3g} exceed float16.")
    return converted


def conversion_loss(path: Path, features: NDArray[np.floating]) -> Loss:
    """Return what `to_float16` loses; raises DataError if it would spoil the whole file, and its errors."""
    loss = Loss(_largest(features), _largest(features - to_float16(path, features)))
    peak, error = loss.peaks.max(), loss.errors.max()
    if error > _TOLERANCE * peak:
        raise DataError(
            f"{printable(path)}: values of at most {peak:.3g} are too small for float16, with errors of up to"
            f" {error / peak:.1%}. Multiply the features of all files by the same constant."
        )
    return loss


def _largest(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the largest absolute value of each column."""
    return np.maximum(values.max(axis=0), -values.min(axis=0)).astype(np.float64)


def spoiled_columns(losses: Mapping[Path, Loss]) -> str | None:
    """Return a warning about columns whose values are too small in all files, None if there are none.

    Values that are small beside others of their column do not count.
    """
    peaks = np.stack([loss.peaks for loss in losses.values()])
    errors = np.stack([loss.errors for loss in losses.values()])
    columns = np.flatnonzero(errors.max(axis=0) > _TOLERANCE * peaks.max(axis=0))
    if not len(columns):
        return None
    file, column = np.unravel_index(peaks[:, columns].argmax(), (len(peaks), len(columns)))
    largest, path = peaks[file, columns[column]], printable([*losses][file])
    return (
        f"{len(columns)} of {peaks.shape[1]} columns hold only values that are too small for float16 and"
        f" are stored inexactly or as zero: {some(columns.tolist())}, counted from 0. The largest value is"
        f" {largest:.3g}, in column {columns[column]} of {path}."
    )
