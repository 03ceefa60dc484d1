"""Patients from arrays and tables: what is read exactly, and what is refused."""

import datetime
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mil_toolkit.training.arrays import BagError, patients_of_arrays

BAG = np.arange(6, dtype=np.float32).reshape(2, 3) / 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.from_numpy(BAG).bfloat16(),
        lambda: torch.from_numpy(BAG).requires_grad_(),
        lambda: torch.from_numpy(BAG).half().T.contiguous().T,
        lambda: torch.from_numpy(BAG).double(),
        lambda: BAG.tolist(),
        lambda: BAG.astype(">f4"),
    ],
)
def test_a_bag_can_be_any_array_or_tensor(make: Callable[[], Any]) -> None:
    patients = patients_of_arrays([make(), make()])
    assert patients.bags is not None
    np.testing.assert_array_equal(patients.bags.instances.float().numpy(), np.concatenate([BAG, BAG]))


@pytest.mark.parametrize(
    "bag",
    [
        BAG.astype(complex),
        torch.zeros(2, 3, dtype=torch.complex64),
        BAG.astype(np.float64) + 1e39,
        BAG.astype(np.float64) - 1e300,
        np.full((2, 3), 2**1000, dtype=object),
        np.full((2, 3), None),
        np.full((2, 3), True),
    ],
)
def test_values_that_float32_cannot_hold_are_refused_by_position(bag: Any) -> None:
    message = "finite numbers in the range of float32, got other values in the bags at 1."
    with pytest.raises(BagError, match=re.escape(message)):
        patients_of_arrays([BAG, bag])


def test_the_greatest_number_of_float32_is_accepted() -> None:
    bag = np.full((1, 2), np.finfo(np.float32).max, dtype=np.float64)
    patients = patients_of_arrays([bag])
    assert patients.bags is not None and bool(patients.bags.instances.isfinite().all())


def test_rows_of_different_lengths_are_not_a_bag() -> None:
    with pytest.raises(BagError, match=r"got other shapes: \(0,\) at 1"):
        patients_of_arrays([BAG, [[1.0, 2.0], [3.0]]])


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ((5, "5"), "5, '5'"),
        (("a", "a"), "'a', 'a'"),
        (("bag", "bag"), "'bag', 'bag'"),
        ((1.5, "1.5"), "1.5, '1.5'"),
    ],
)
def test_columns_of_the_same_name_are_refused(columns: tuple[Any, Any], named: str) -> None:
    table = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=list(columns))
    with pytest.raises(
        BagError, match=f"several columns of the same name: {re.escape(named)}. Rename or drop"
    ):
        patients_of_arrays(table)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 1e39], "is beyond the range of float32 at 1."),
        ([1, -1e300], "is beyond the range of float32 at 1."),
        ([1.0, -np.inf], "is infinite at 1."),
        ([1 + 2j, 3], "holds complex numbers. Use two columns"),
        (np.array([1 + 2j, None], dtype=object), "holds complex numbers. Use two columns"),
        (pd.to_datetime(["2020-01-01", None]), "holds dates. Convert them"),
        (pd.to_timedelta([1, 2], unit="D"), "holds dates. Convert them"),
        ([datetime.date(2020, 1, 1), None], "holds dates. Convert them"),
        (pd.period_range("2020", periods=2, freq="Y"), "holds dates. Convert them"),
        ([np.zeros((2, 3)), np.zeros((1, 3))], "holds arrays at 0, 1. Only the column 'bag' may hold bags."),
    ],
)
def test_columns_that_are_not_metadata_are_refused(values: Any, message: str) -> None:
    table = pd.DataFrame({"age": [1.0, np.nan], "other": pd.Series(values)})
    with pytest.raises(BagError, match=re.escape(f"Column 'other' {message}")):
        patients_of_arrays(table)


def test_all_problems_are_named_in_one_run() -> None:
    table = pd.DataFrame({"a": [1j, 2], "b": [1e300, 0], "bag": [BAG, BAG.astype(complex)]})
    with pytest.raises(BagError) as caught:
        patients_of_arrays(table)
    assert len(caught.value.problems) == 3
