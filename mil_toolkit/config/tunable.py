"""Hyperparameters: their help texts, the values that they may have, and those that a search tries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

Value = bool | int | float | str
"""The value of a hyperparameter."""

Settings = Mapping[str, tuple[Value, ...]]
"""The values that each hyperparameter may take, by field of HeadConfig; a single value fixes it."""

ValueT = TypeVar("ValueT", bound=Value)


@dataclass(frozen=True)
class Tunable:
    """The help text of a field, the values that it may have, and those that a search tries.

    help: shown by `--help`
    low, high: the interval that a search samples, both ends included; log: whether it samples on a log scale
    choices: the only allowed values; without them, a number must lie between `minimum` and `maximum`
    search: the list of values that a search tries, if it is not an interval
    needs: values of other fields without which this one has no effect, so that a search does not suggest it
    maximum_excluded: whether `maximum` itself is not allowed
    joins_views: whether it has an effect only on several views that are used together
    of_classes: whether it has an effect only on a head with a logit for each of several classes
    is_later: whether studies of older versions lack it; the description of a study leaves it out where the
        study's search does not vary it
    """

    help: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()
    search: tuple[Value, ...] = ()
    needs: Settings = field(default_factory=dict)
    minimum: float = 0
    maximum: float = math.inf
    maximum_excluded: bool = False
    joins_views: bool = False
    of_classes: bool = False
    is_later: bool = False

    @property
    def searched(self) -> bool:
        """Whether a search varies the field by default."""
        return self.low is not None or bool(self.search)

    @property
    def bounds(self) -> str:
        """The range of allowed numbers in words."""
        end = "below" if self.maximum_excluded else "at most"
        upper = f" and {end} {self.maximum}" if math.isfinite(self.maximum) else ""
        return f"at least {self.minimum}{upper}"

    def contains(self, value: float) -> bool:
        """Return whether a number lies in the allowed range."""
        below = value < self.maximum if self.maximum_excluded else value <= self.maximum
        return self.minimum <= value and below


def tunable_field(default: ValueT, tunable: Tunable) -> ValueT:
    """Return a dataclass field with a default value and a `Tunable`."""
    return field(default=default, metadata={"tunable": tunable})


def tunables(config: type) -> dict[str, Tunable]:
    """Return the `Tunable` of every field of a configuration class, in the order of the fields."""
    return {each.name: each.metadata["tunable"] for each in fields(config)}
