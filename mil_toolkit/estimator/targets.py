"""Checks of `y`: labels of classes, numbers, and scikit-survival's structured arrays."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import column_or_1d

from mil_toolkit.core.text import some
from mil_toolkit.training.arrays import BagError

_GREATEST = float(np.finfo(np.float32).max)
_EXAMPLE = "sksurv.util.Surv.from_arrays(event, time)"


def class_labels(y: ArrayLike) -> np.ndarray:
    """Return y as an array (B,); raises BagError for missing labels, and for numbers among words."""
    values = _objects(y)
    missing = np.flatnonzero(pd.isna(values)).tolist()
    if missing:
        raise BagError(f"y has no label at {some(missing)}: leave these bags out.")
    kinds = {isinstance(value, str) for value in values}
    if len(kinds) > 1:
        examples = sorted({repr(value) for value in values})
        raise BagError(f"Expected labels of one kind; y holds numbers and words: {some(examples)}.")
    return np.asarray(column_or_1d(y))


def numbers(y: ArrayLike, above_zero: bool = False) -> np.ndarray:
    """Return y as numbers (B,) float64; raises BagError that names every other value and its position.

    above_zero: also refuse numbers that are not above 0
    """
    values = _objects(y)
    unusable = [place for place, value in enumerate(values) if not _is_number(value)]
    if unusable:
        raise BagError(
            "Expected finite numbers in the range of float32 in y, got other values:"
            f" {_values_at(unusable, values)}. Correct them, or leave these bags out."
        )
    converted = values.astype(float)
    if above_zero and (converted <= 0).any():
        low = np.flatnonzero(converted <= 0).tolist()
        raise BagError(
            f"Expected numbers above 0 in y, whose logarithm is taken, got {_values_at(low, values)}."
        )
    return converted


def survival_times(y: ArrayLike) -> np.ndarray:
    """Return times and events (1 or 0) as an array (B, 2) float64 from scikit-survival's structured y.

    Raises BagError for anything but a structured array (B,) whose first field is bool and whose second field
    is a number, and for times that are not finite numbers above 0, with their positions.
    """
    problem = _structure_problem(y)
    if problem is not None:
        raise BagError(
            "Expected y as scikit-survival takes it: a structured array (B,) of two fields, first whether the"
            f" event happened (bool), then the time (a number), such as {_EXAMPLE}. Got {problem}."
        )
    assert isinstance(y, np.ndarray) and y.dtype.names is not None
    event, time = y.dtype.names
    times = y[time].astype(float)
    wrong = np.flatnonzero(~((times > 0) & (times <= _GREATEST))).tolist()
    if wrong:
        held = _values_at(wrong, times.astype(object))
        raise BagError(
            f"Expected times above 0 that are finite in y[{time!r}], got {held}. A time counts from the start"
            " of the observation. Correct them, or leave these bags out."
        )
    return np.stack([times, y[event].astype(float)], axis=-1)


def _structure_problem(y: ArrayLike) -> str | None:
    """Return what y is instead of scikit-survival's structured array, or None if it is one."""
    if not isinstance(y, np.ndarray):
        return f"an object of the type {type(y).__name__}"
    if y.dtype.names is None:
        return f"an array of the type {y.dtype} and the shape {y.shape}, without fields"
    fields = {name: y.dtype[name] for name in y.dtype.names}
    kinds = [field.kind for field in fields.values()]
    if len(kinds) == 2 and kinds[0] == "b" and kinds[1] in "fiu" and y.ndim == 1:
        return None
    described = ", ".join(f"{name!r} ({field})" for name, field in fields.items())
    return f"the shape {y.shape} and the fields {described}"


def _objects(y: ArrayLike) -> np.ndarray:
    return np.asarray(column_or_1d(np.asarray(y, dtype=object)), dtype=object)


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number in the range of float32; NaN is not."""
    if isinstance(value, int):  # of any size
        return abs(value) <= _GREATEST
    return isinstance(value, float | np.integer | np.floating | np.bool_) and abs(float(value)) <= _GREATEST


def _values_at(places: Sequence[int], values: np.ndarray) -> str:
    """Return the values at these positions, for a message."""
    return some([f"{_text(values[place])} at {place}" for place in places])


def _text(value: object) -> str:
    return str(value) if isinstance(value, np.generic) else repr(value)  # without the name of the type
