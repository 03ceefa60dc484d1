"""`patients_of_arrays`: patients from in-memory bags and tables, as passed to scikit-learn estimators."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import some
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients

BAG = "bag"  # the column of a table that holds the bags
Data = pd.DataFrame | Sequence[ArrayLike] | np.ndarray  # a table, or a sequence of bags (n, D)


class BagError(DataError, ValueError):
    """Bags, labels or parameters that cannot be used; also a ValueError, as scikit-learn expects."""


def patients_of_arrays(X: Data, labels: np.ndarray | None = None) -> Patients:
    """Return the B patients of `X`, with their positions as ids.

    X: a sequence of bags, each (n, D), or a table of B rows. In a table, the column `bag` holds the bags and
        all others are metadata.
    labels: (B,) of 0 and 1; None leaves all patients unlabelled

    Raises BagError that lists every bag and column that cannot be used.
    """
    table = X.reset_index(drop=True) if isinstance(X, pd.DataFrame) else _table(X)
    if not len(table) or (labels is not None and len(labels) != len(table)):
        raise BagError(f"X holds {len(table)} bags, y {'none' if labels is None else len(labels)}.")
    table.index = table.index.map(str)
    problems: list[str] = []
    bags = _bags(list(table[BAG]), problems) if BAG in table else None
    columns = {str(name): _column(table[name], problems) for name in table if name != BAG}
    if problems:
        raise BagError(problems)
    unlabelled = np.full(len(table), -1)
    return Patients(bags, unlabelled if labels is None else labels, pd.DataFrame(columns, table.index))


def _table(bags: Sequence[ArrayLike] | np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({BAG: pd.Series(list(bags), dtype=object)})


def _bags(values: Sequence[ArrayLike], problems: list[str]) -> Bags | None:
    """Pack the bags, as float16 if all are float16, else as float32; or add to `problems` and return None."""
    arrays = [np.asarray(value) for value in values]
    problem = _bag_problem(arrays)
    if problem is not None:
        problems.append(problem)
        return None
    kind = np.float16 if all(array.dtype == np.float16 for array in arrays) else np.float32
    tensors = [torch.from_numpy(np.ascontiguousarray(array, dtype=kind)) for array in arrays]
    names = [str(place) for array in arrays for place in range(len(array))]
    return Bags.pack(tensors, [str(place) for place in range(len(arrays))], names)


def _bag_problem(arrays: Sequence[np.ndarray]) -> str | None:
    """Return why these arrays are not bags (n, D) of one width D and finite numbers, or None if they are."""
    shapes = [array.shape for array in arrays]
    wrong = [f"{shape} at {place}" for place, shape in enumerate(shapes) if len(shape) != 2 or not shape[0]]
    if wrong:
        return f"Expected bags of shape (n, D) with at least one embedding, got other shapes: {some(wrong)}."
    widths = {shape[1] for shape in shapes}
    if len(widths) > 1:
        return f"Expected bags (n, D) with the same width D, got the widths {some(sorted(widths))}."
    unusable = [place for place, array in enumerate(arrays) if not _is_finite(array)]
    if unusable:
        return f"Expected embeddings of finite numbers, got other values in the bags at {some(unusable)}."
    return None


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and bool(np.isfinite(array).all())


def _column(values: pd.Series, problems: list[str]) -> pd.Series:
    """Return a metadata column as `MetadataEncoder` takes it: float with NaN, or strings and None."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.astype(float)
        infinite = np.flatnonzero(np.isinf(numbers)).tolist()
        if infinite:
            problems.append(f"Column {values.name!r} is infinite at {some(infinite)}.")
        return numbers
    if pd.api.types.is_datetime64_any_dtype(values):
        advice = "Convert them to numbers first, such as an age in years."
        problems.append(f"Column {values.name!r} holds dates. {advice}")
    texts = [None if pd.isna(value) else str(value) for value in values]
    return pd.Series(texts, values.index, dtype=object)
