"""Quantiles and moments of the training patients in a bundle; nothing of single patients."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta

from mil_toolkit.bundle.domain.guess import Guess, fit_guess

_FAR_BELOW = math.log(1000)  # a number that has no logarithm counts as 1000 times below the low quantile
_FACTOR = 0.1  # smallest width on the scale of logarithms: a factor of 1.1
USUAL_EXCESS = 0.2  # smallest excess, about that of a normal distribution, where patients hardly differ
_LARGEST = 700.0  # of a logarithm, so that its exponential is finite and not zero
_START = 0.9  # quantile at which a tail begins
_LARGEST_SHARE = 0.99  # of patients beyond the start of a tail, divided by the weight of the measure
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Tail:
    """The upper tail of a measure among held-out training patients.

    start: where it begins; share: of the patients beyond it, divided by the weight of the measure
    excess: their typical distance from it

    Beyond a high threshold, the excesses of most distributions are about exponential (peaks over threshold;
    Davison and Smith 1990, with shape 0). The mean of that distribution is estimated from the median, so that
    single patients who are unlike all others do not hide others like them.
    """

    start: float
    share: Annotated[float, Meta(gt=0, lt=1)]
    excess: Positive

    @classmethod
    def of(
        cls,
        measures: np.ndarray,
        least: float = -math.inf,
        smallest: float = USUAL_EXCESS,
        weight: float = 1.0,
    ) -> "Tail":
        """Fit the tail to the measures (n,) of held-out patients.

        least: the tail does not begin before; smallest: typical distance from its beginning
        weight: of the measure among others, up to 1; a small weight makes values less surprising
        """
        start = max(least, float(np.quantile(measures, _START)))
        beyond = measures[measures > start]
        excess = float(np.median(beyond - start)) / math.log(2) if len(beyond) else 0.0
        share = max(1, len(beyond)) / (1 + len(measures)) / weight
        return cls(start, min(share, _LARGEST_SHARE), max(smallest, excess))

    def surprise(self, measures: np.ndarray) -> np.ndarray:
        """Return -log of the share of training patients with at least these measures; 0 before the tail.

        The share is divided by the weight of the measure.
        """
        beyond = (measures - self.start) / self.excess
        return np.where(beyond > 0, beyond - math.log(self.share), 0.0)


@dataclass(frozen=True)
class Spread:
    """Where the training values of a number lie.

    low, middle, high: the quantiles of 5 %, 50 % and 95 %
    logarithms: whether these are quantiles of the natural logarithms of the positive values
    zeros: whether zero was among the values, whose logarithm is not counted
    smallest: smallest distance of an outer quantile from the middle that counts
    guess: of the number or its logarithm from the images, if the quantiles are those of the differences
    """

    low: float
    middle: float
    high: float
    logarithms: bool
    zeros: bool
    smallest: Positive
    guess: Guess | None = None

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.middle <= self.high < math.inf:
            raise ValueError(f"{self.low}, {self.middle} and {self.high} are not in ascending order")
        if self.logarithms and not max(-self.low, self.high) <= _LARGEST:
            raise ValueError(f"{self.low} and {self.high} are logarithms, beyond {_LARGEST:g}")

    @classmethod
    def of(cls, values: np.ndarray, images: np.ndarray | None = None) -> "Spread":
        """Return the spread of values (n,), NaN where missing; of logarithms if none is negative.

        A number in another unit differs by a factor, which is the same distance everywhere on this scale.

        images: (n, C) `standardised` mean embeddings, if the value is to be expected from them
        """
        known = values[np.isfinite(values)]
        logarithms = bool((known > 0).any()) and bool((known >= 0).all())
        counts = np.isfinite(values) & ((values > 0) | (not logarithms))
        counted = np.log(values[counts]).clip(-_LARGEST, _LARGEST) if logarithms else values[counts]
        fitted = None if images is None else fit_guess(counted, images[counts])
        guess, away = fitted or (None, counted)
        low, middle, high = np.quantile(away, (0.05, 0.5, 0.95)).tolist() if len(away) else (0.0, 0.0, 0.0)
        smallest = _FACTOR if logarithms else _smallest(counted)
        return cls(low, middle, high, logarithms, bool((known == 0).any()), smallest, guess)

    def distances(self, values: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
        """Return how far values (n,) are from the middle; 1 at both outer quantiles, 0 if missing.

        images: (n, C) `standardised` mean embeddings, unless there is no guess
        """
        expected = self._expected(images, len(values))
        counted = self._logarithms(values, expected) if self.logarithms else values
        away = counted - expected - self.middle
        distances = np.where(away < 0, away / -self._width(self.low), away / self._width(self.high))
        return np.where(np.isnan(values) | (self.zeros & (values == 0)), 0.0, np.abs(distances))

    def _expected(self, images: np.ndarray | None, count: int) -> np.ndarray:
        if self.guess is None:
            return np.zeros(count)
        assert images is not None
        return self.guess.expect(images)

    def _logarithms(self, values: np.ndarray, expected: np.ndarray) -> np.ndarray:
        lowest = expected + self.low - _FAR_BELOW
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(values > 0, np.maximum(np.log(np.maximum(values, 0)), lowest), lowest)

    def _width(self, end: float) -> float:
        """Return the distance of a quantile from the middle."""
        return max(self.smallest, abs(end - self.middle))

    def usual(self, images: np.ndarray | None = None) -> np.ndarray:
        """Return the ranges of nine in ten training values in their unit, (n, 2).

        images: (n, C) `standardised` mean embeddings of patients whose values are expected from them;
            without a guess, there is one range for all
        """
        expected = self._expected(images, 1)[:, None]
        ends = expected + np.array([self.low, self.high])
        return np.exp(ends.clip(-_LARGEST, _LARGEST)) if self.logarithms else ends


def _smallest(values: np.ndarray) -> float:
    """Return the smallest width of a spread: a share of the deviation, else of the size of equal values."""
    if not len(values):
        return 1.0
    return _FACTOR * float(values.std() or np.abs(values).max() or 1.0)


@dataclass(frozen=True)
class KnownNumber:
    """A number of the training patients, and the tail of its `distances` among held-out ones."""

    spread: Spread
    tail: Tail


@dataclass(frozen=True)
class ImageSpace:
    """Where the projected embeddings of the training patients lie, in C columns.

    means: of the patients' mean embeddings, (C,)
    deviations: between patients, (C,), if their mean embeddings came from many images each
    variances: of single images around the mean of all, each patient with the same weight, (C,)
    residual: mean squared length of what the projection leaves out of an image; 0 if it leaves out nothing
    within: variances of single images of one patient, (C,); empty in bundles of older versions, where
        `deviations` are those of mean embeddings of as many images as the patients had
    """

    means: list[float]
    deviations: list[Positive]
    variances: list[Positive]
    residual: NotNegative
    within: list[NotNegative] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns = {len(self.means), len(self.deviations), len(self.variances)}
        if len(columns | ({len(self.within)} if self.within else set())) > 1 or not self.means:
            raise ValueError("means, deviations, variances and within must have the same number of columns")


@dataclass(frozen=True)
class KnownImages:
    """The images of the training patients.

    foreign: distance from which a single image counts as foreign; a few in a hundred held-out ones do
    whole, share: tails of a patient's `whole_distances`, and of the share of foreign images
    own_projection: whether the columns are those of a projection of its own; False in bundles of older
        versions, where they are those that the head sees
    """

    space: ImageSpace
    foreign: Positive
    whole: Tail
    share: Tail
    own_projection: bool = False


@dataclass(frozen=True)
class Domain:
    """Description of the training patients of a bundle.

    patients: held-out training patients by whom the limit was chosen
    numbers: by column; unreliable: columns that often have new words, which are not counted
    gaps: whether a value that is missing in a column without gaps puts a patient outside; not where held-out
        patients often had such gaps
    bag_size, images: None if the model does not look at images; images also if its backbone was fine-tuned
    limit: largest surprise at which a patient is in the domain
    """

    patients: Annotated[int, Meta(ge=1)]
    numbers: dict[str, KnownNumber]
    unreliable: list[str]
    bag_size: KnownNumber | None
    images: KnownImages | None
    limit: NotNegative
    gaps: bool = True

    @property
    def own_columns(self) -> int:
        """Number of columns of the projection of its own, 0 without one."""
        images = self.images
        return len(images.space.means) if images is not None and images.own_projection else 0
