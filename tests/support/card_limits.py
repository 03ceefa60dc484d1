"""Figures of checks with the limits that they have to keep."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from support.card_data import Place


class Limit(NamedTuple):
    """A figure, and the least or the most that it may be."""

    value: float
    least: float | None = None
    most: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the figure is within its limits; one that is not a number is not."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)


Figures = Mapping[str, Limit]
Check = Callable[[Place], Figures]


def same(one: object, other: object) -> Limit:
    """Return a figure that is 1 for equal bits, and has to be."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return Limit(float(one.tobytes() == other.tobytes()), least=1)
    return Limit(float(one == other), least=1)
