"""The scale of each patient's image files in a shard of resampled images."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.features.shard_layout import ShardProblem

SCALES = "scales"
"""Name of the dataset (p,): micrometres per pixel as texts, since shards hold no float64."""


def scale_texts(scales: Sequence[float | None]) -> NDArray[np.bytes_]:
    """Return micrometres per pixel (p,) as a shard stores them; unknown ones are empty."""
    return np.array([b"" if scale is None else repr(scale).encode() for scale in scales])


def parse_scales(texts: NDArray[np.generic] | None, patients: int) -> tuple[float | None, ...]:
    """Return the micrometres per pixel that a shard stores of its patients; unknown without the dataset.

    Raises ShardProblem if they are not positive numbers, one for each patient.
    """
    if texts is None:
        return (None,) * patients
    if texts.dtype.kind != "S" or texts.shape != (patients,):
        raise ShardProblem(f"its dataset {SCALES} does not hold a text for each of {patients} patients")
    return tuple(map(_parsed_scale, texts.tolist()))


def _parsed_scale(text: bytes) -> float | None:
    if not text:
        return None
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise ShardProblem(f"its dataset {SCALES} holds {text!r}, which is not a positive number")
    return scale
