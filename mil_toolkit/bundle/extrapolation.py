"""`extrapolations`: metadata of new patients that lie outside what the training patients of a bundle had."""

import pandas as pd

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.training.new_columns import unseen_lines


def number_ranges(metadata: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of each number column that has any."""
    numbers = {str(name): values.dropna() for name, values in metadata.items() if _is_number(values)}
    return {
        name: (float(values.min()), float(values.max())) for name, values in numbers.items() if len(values)
    }


def extrapolations(bundle: ModelBundle, metadata: pd.DataFrame) -> list[str]:
    """Return a line for each column with numbers outside the training range, or with unseen words.

    Bundles of older versions do not record the ranges of numbers; they know the words.
    """
    lines = [_outside(metadata[name], low, high) for name, (low, high) in (bundle.about.ranges or {}).items()]
    outside = [line for line in lines if line is not None]
    return [*outside, *unseen_lines(bundle.head.encoder, metadata)]


def _is_number(values: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values))


def _outside(values: pd.Series, low: float, high: float) -> str | None:
    outside = values[(values < low) | (values > high)]
    if outside.empty:
        return None
    first, last = outside.min(), outside.max()
    given = f"{first:g}" if first == last else f"{first:g} to {last:g}"
    verb = "lies" if len(values) == 1 else "lie"
    return (
        f"{printable(str(values.name))}: {len(outside)} of {count_of(len(values), 'patient')} {verb} outside"
        f" the training range {low:g} to {high:g} ({given})."
    )
