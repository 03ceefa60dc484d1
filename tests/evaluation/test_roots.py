"""The root of a function, compared with SciPy's."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from mil_toolkit.evaluation.bounds import auc_variance
from mil_toolkit.evaluation.roots import brent_root

SHAPES: list[Callable[[float], float]] = [
    lambda x: x,
    lambda x: x**3,
    lambda x: x**9,
    lambda x: math.expm1(20 * x),
    lambda x: math.tanh(50 * x),
    lambda x: -1.0 if x < 0 else 1.0,
    lambda x: math.copysign(abs(x) ** 0.2, x),
    lambda x: math.sin(3 * x) if abs(x) < 1 else math.copysign(math.sin(3), x),
]


@given(
    st.sampled_from(SHAPES),
    st.floats(-1, 1),
    st.floats(1e-3, 2),
    st.floats(1e-3, 2),
    st.sampled_from([-1, 1]),
    st.sampled_from([1e-9, 1e-3]),
)
def test_the_root_is_scipys_to_the_bit(
    shape: Callable[[float], float], centre: float, below: float, above: float, sign: int, tolerance: float
) -> None:
    """Also where a bound is the root, for steep, flat and discontinuous functions, rising and falling."""

    def function(x: float) -> float:
        return sign * shape(x - centre)

    low, high = centre - below, centre + above
    root = brent_root(function, low, high, tolerance)
    assert root.hex() == float(brentq(function, low, high, xtol=tolerance)).hex()
    assert abs(root - centre) <= 2 * tolerance or not function(root)


@given(st.floats(0.01, 0.99), st.integers(1, 300), st.integers(1, 300), st.floats(0.3, 5))
def test_bounds_of_an_auc_are_scipys_to_the_bit(auc: float, positives: int, negatives: int, z: float) -> None:
    pairs = np.array([[positives, negatives]])

    def surplus(value: float) -> float:
        return float((value - auc) ** 2 - z**2 * auc_variance(value, pairs))

    for low, high in ((1e-12, auc), (auc, 1 - 1e-12)):
        if surplus(low) * surplus(high) < 0:
            expected = brentq(surplus, low, high, xtol=1e-9)
            assert brent_root(surplus, low, high, 1e-9).hex() == float(expected).hex()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 0.0)])
def test_a_bound_may_be_the_root(low: float, high: float) -> None:
    assert brent_root(lambda x: x, low, high, 1e-9) == 0
