"""`patients_of_arrays`: patients from in-memory bags and tables, as passed to scikit-learn estimators."""

import datetime
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import some
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients

_GREATEST = float(np.finfo(np.float32).max)
_DATES = (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64, pd.Period)
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
    if isinstance(X, pd.DataFrame):
        _check_names(X)
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


def _check_names(table: pd.DataFrame) -> None:
    """Raise BagError where two columns have the same name, as words."""
    counts = Counter(map(str, table.columns))
    repeated = [name for name in table.columns if counts[str(name)] > 1]
    if repeated:
        names = some([repr(name) for name in repeated])
        raise BagError(f"X has several columns of the same name: {names}. Rename or drop them.")


def _table(bags: Sequence[ArrayLike] | np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({BAG: pd.Series(list(bags), dtype=object)})


def _bags(values: Sequence[ArrayLike], problems: list[str]) -> Bags | None:
    """Pack the bags, as float16 if all are float16, else as float32; or add to `problems` and return None."""
    arrays = [_array(value) for value in values]
    problem = _bag_problem(arrays)
    if problem is not None:
        problems.append(problem)
        return None
    kind = np.float16 if all(array.dtype == np.float16 for array in arrays) else np.float32
    tensors = [torch.from_numpy(np.ascontiguousarray(array, dtype=kind)) for array in arrays]
    names = [str(place) for array in arrays for place in range(len(array))]
    return Bags.pack(tensors, [str(place) for place in range(len(arrays))], names)


def _array(bag: ArrayLike | torch.Tensor) -> np.ndarray:
    """Return a bag as an array; one without axes if its rows differ in length, which is not a bag's shape."""
    if isinstance(bag, torch.Tensor):
        tensor = bag.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # exact in float32
    try:
        return np.asarray(bag)
    except ValueError:
        return np.array(bag, dtype=object).reshape(-1)[:0]


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
        return (
            "Expected embeddings of finite numbers in the range of float32, got other values in the bags at"
            f" {some(unusable)}."
        )
    return None


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and bool((np.abs(array.astype(np.float64)) <= _GREATEST).all())


def _column(values: pd.Series, problems: list[str]) -> pd.Series:
    """Return a metadata column as `MetadataEncoder` takes it: float with NaN, or strings and None."""
    problem = _column_problem(values)
    if problem is not None:
        problems.append(f"Column {values.name!r} {problem}")
        return values
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    texts = [None if pd.isna(value) else str(value) for value in values]
    return pd.Series(texts, values.index, dtype=object)


def _column_problem(values: pd.Series) -> str | None:
    """Return why a column cannot be used, as the rest of a sentence, or None if it can."""
    if values.dtype.kind in "Mm" or any(isinstance(value, _DATES) for value in values):
        return "holds dates. Convert them to numbers first, such as an age in years."
    if values.dtype.kind == "c" or any(isinstance(value, complex) for value in values):
        return "holds complex numbers. Use two columns, for the real and the imaginary parts."
    containers = [place for place, value in enumerate(values) if not np.isscalar(value) and np.ndim(value)]
    if containers:
        return f"holds arrays at {some(containers)}. Only the column {BAG!r} may hold bags."
    if not pd.api.types.is_numeric_dtype(values):
        return None
    numbers = values.astype(float)
    if np.isinf(numbers).any():
        return f"is infinite at {some(np.flatnonzero(np.isinf(numbers)).tolist())}."
    beyond = np.flatnonzero(numbers.abs() > _GREATEST).tolist()
    return f"is beyond the range of float32 at {some(beyond)}." if beyond else None
