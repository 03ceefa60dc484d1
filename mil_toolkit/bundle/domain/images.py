"""How far the embeddings of patients lie from those of the training patients, in the projected space."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.bundle.domain.records import ImageSpace
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import PART
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection
from mil_toolkit.training.seen import Seen

MOST_IMAGES = 256  # of a patient that are looked at, evenly spaced: more would not change its distance
_LEAST = 1e-12  # square of a distance whose logarithm is taken
_SUREST = 100  # images whose mean is as sure as that of any number: other patients differ at least so much
_LEAST_BETWEEN = 0.001  # of a variance between patients, as a share of the mean of all columns
_SMALLEST = 0.1  # of a variance, as a share of the mean of all columns, or of a residual, of the whole


class Located(NamedTuple):
    """The n images of one patient in the projected space.

    columns: (n, C); residuals: (n,) squared lengths of what the projection leaves out, of the `lengths` (n,)
    """

    columns: np.ndarray
    residuals: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Locator:
    """Reads embeddings as a head sees them, and projects them.

    config: of the head, which says which views it uses
    """

    config: HeadConfig
    projection: Projection

    def locate(self, patients: Patients, places: Sequence[int]) -> Iterator[Located]:
        """Yield the images of the patients at these places, one patient after the other."""
        assert patients.bags is not None
        views = [Seen.by(self.config, bags) for bags in patients.seen_views(self.config).values()]
        starts, sizes = patients.bags.offsets.tolist(), patients.bags.sizes.tolist()
        for place in places:
            embeddings = [_read_spaced(view, starts[place], sizes[place]) for view in views]
            yield self._project(torch.cat(embeddings, -1))

    def _project(self, embeddings: Tensor) -> Located:
        projection = self.projection
        whole = (embeddings.float() - projection.shift) * projection.scale  # (n, D)
        if projection.components is None:
            return Located(whole.double().numpy(), np.zeros(len(whole)), np.zeros(len(whole)))
        columns = whole @ projection.components  # (n, C)
        lengths = projection.components.square().sum(0).clamp(min=1e-30)
        inside = (columns.square() / lengths).sum(1)  # the components are orthogonal
        total = whole.square().sum(1)
        residuals = (total - inside).clamp(min=0)
        return Located(columns.double().numpy(), residuals.double().numpy(), total.double().numpy())


def _read_spaced(view: Seen, start: int, size: int) -> Tensor:
    """Read the spaced rows of a bag of so many images from row `start` on, (n, D).

    The whole bag is read in parts: reading many rows that are not neighbours from a shard takes far longer.
    """
    wanted, read = start + _spaced(size), list[Tensor]()
    for rows in torch.arange(start, start + size).split(max(1, PART // view.slots)):
        chosen = wanted[(wanted >= rows[0]) & (wanted <= rows[-1])] - rows[0]
        read.append(view.read_for_prediction(rows)[chosen])
    return torch.cat(read)


def _spaced(size: int) -> Tensor:
    """Return which of so many images are looked at, in order.

    >>> _spaced(3).tolist(), len(_spaced(1000))
    ([0, 1, 2], 256)
    """
    return torch.linspace(0, size - 1, min(size, MOST_IMAGES), dtype=torch.float64).round().long()


class BagMoments(NamedTuple):
    """Moments of the images of B patients.

    sizes: (B,) images that were looked at
    means, squares: (B, C) of the columns and of their squares
    residuals, lengths: (B,) means
    """

    sizes: np.ndarray
    means: np.ndarray
    squares: np.ndarray
    residuals: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, located: Iterable[Located]) -> "BagMoments":
        """Return the moments of patients' images."""
        moments = [
            (
                float(len(one.columns)),
                one.columns.mean(0),
                np.square(one.columns).mean(0),
                one.residuals.mean(),
                one.lengths.mean(),
            )
            for one in located
        ]
        return cls(*(np.array(values) for values in zip(*moments, strict=True)))

    @property
    def within(self) -> np.ndarray:
        """Unbiased variances of single images of one patient, (C,); 0 if no patient has two images."""
        several = self.sizes > 1
        if not several.any():
            return np.zeros(self.means.shape[1])
        sizes = self.sizes[several, None]
        variances = (self.squares - np.square(self.means))[several].clip(min=0)
        return np.asarray((variances * sizes / (sizes - 1)).mean(0))


def fit_space(moments: BagMoments) -> ImageSpace:
    """Return where the images of training patients lie; each patient has the same weight.

    The variance of the patients' means is that between patients plus that of single images, divided by their
    number (the random-effects model of one-way analysis of variance; Searle, Casella and McCulloch 1992,
    chapter 3). Columns that hardly vary, and a small residual, are raised: of fewer images than columns, the
    last ones fit the training images by chance.
    """
    means, within = moments.means, moments.within
    between = (means.var(0) - within * (1 / moments.sizes).mean()).clip(min=0)
    between = np.maximum(_floored(between, _LEAST_BETWEEN), within / _SUREST)
    return ImageSpace(
        means.mean(0).tolist(),
        np.sqrt(between).tolist(),
        _floored(moments.squares.mean(0) - np.square(means.mean(0))).tolist(),
        max(float(moments.residuals.mean()), _SMALLEST * float(moments.lengths.mean())),
        within.tolist(),
    )


def _floored(values: np.ndarray, least: float = _SMALLEST) -> np.ndarray:
    """Return positive values: those of columns that hardly vary are raised to a share of the mean."""
    return np.maximum(values, max(least * float(values.mean()), 1e-12))


def standardised(space: ImageSpace, means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return patients' mean embeddings (B, C) of so many images (B,) in standard deviations, (B, C).

    The fewer images a patient has, the larger is the standard deviation of their mean.
    """
    variances = np.square(space.deviations)
    if space.within:
        variances = variances + np.array(space.within) / sizes[:, None]
    return np.asarray((means - np.array(space.means)) / np.sqrt(variances))


def whole_distances(away: np.ndarray) -> np.ndarray:
    """Return the logarithms of the distances of `standardised` mean embeddings (B, C) from 0, (B,).

    The distance is the root mean square over columns.
    """
    return np.asarray(np.log(np.maximum(np.square(away).mean(1), _LEAST)) / 2)


def image_distances(space: ImageSpace, located: Located) -> np.ndarray:
    """Return how far single images lie from those of the training patients, (n,).

    The larger of two statistics of process monitoring with principal components (Jackson and Mudholkar 1979),
    each divided by its mean among training images: the squared distance within the projection (Hotelling's
    T2), and the squared length of what the projection leaves out (Q).
    """
    away = np.square(located.columns - np.array(space.means)) / np.array(space.variances)
    within = away.mean(1)
    return np.maximum(within, located.residuals / space.residual) if space.residual > 0 else within
