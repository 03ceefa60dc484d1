"""`Projection`: what is done to embeddings before a head sees them; linear, saved with the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.features.bags import Bags

MOST_COMPONENTS = 128
SCALED_BY = 16  # leading components, whose mean variance becomes one
LEAST_DEVIATION = 0.01  # of a column, as a share of the mean over columns
_LEADING = 16  # components whose mean variance becomes one
_CHUNK = 8192  # rows in float32 at once


@dataclass(frozen=True)
class Moments:
    """Sums over bags of the bags' mean embedding and mean outer product; subtracting two gives a difference set's.

    bags: number of bags; total: (D,); outer: (D, D), all about `origin` (D,), in float64
    """

    bags: int
    total: np.ndarray
    outer: np.ndarray
    origin: np.ndarray

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(
            self.bags - other.bags, self.total - other.total, self.outer - other.outer, self.origin
        )

    @property
    def mean(self) -> np.ndarray:
        """(D,) mean embedding, each bag weighing the same."""
        return self.origin + self.total / self.bags

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) covariance of the embeddings, each bag weighing the same."""
        centre = self.total / self.bags
        return self.outer / self.bags - np.outer(centre, centre)


def moments(bags: Bags, chosen: np.ndarray, origin: np.ndarray) -> Moments:
    """Moments of the bags `chosen` (b,) about `origin` (D,).

    Each instance weighs one over its bag's size, or large bags would set the moments.
    """
    index = torch.from_numpy(chosen)
    rows, sizes = bags.rows(index), bags.sizes[index]
    roots = torch.repeat_interleave(sizes.float().rsqrt(), sizes)[:, None]
    total = torch.zeros(bags.instances.shape[1], dtype=torch.float64)
    outer = torch.zeros(len(total), len(total), dtype=torch.float64)
    for part, root in zip(rows.split(_CHUNK), roots.split(_CHUNK), strict=True):
        x = (bags.instances[part].float() - torch.from_numpy(origin).float()) * root  # (c, D), weighed once
        total += (x * root).sum(0)
        outer += x.T @ x
    return Moments(len(chosen), total.numpy(), outer.numpy(), origin)


@dataclass(frozen=True)
class Projection:
    """Embeddings as a head sees them: (x - shift) * scale, then @ components where there are any.

    shift, scale: (D,) float32; components: (D, C) float32 or None
    """

    shift: Tensor
    scale: Tensor
    components: Tensor | None

    @property
    def width(self) -> int:
        """Columns that come out."""
        return len(self.shift) if self.components is None else self.components.shape[1]

    def narrowed(self, components: int) -> "Projection":
        """The same with the first so many components."""
        assert self.components is not None
        return Projection(self.shift, self.scale, self.components[:, :components])

    def to(self, device: torch.device) -> "Projection":
        """The same on a device."""
        components = None if self.components is None else self.components.to(device)
        return Projection(self.shift.to(device), self.scale.to(device), components)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """(n, D) of any precision -> (n, width) float32."""
        x = (embeddings.float() - self.shift) * self.scale
        return x if self.components is None else x @ self.components


def fit_projection(of: Moments, standardise: bool, components: int) -> Projection:
    """The projection that the moments of some training bags give.

    standardise: each column to variance one, before the components are sought; a constant column becomes zero
    components: principal components at most, 0 for none. They come out by falling variance, their mean variance
        over the first SCALED_BY being one, so that a head finds the same scale whatever the backbone.
    """
    covariance, mean = of.covariance, of.mean
    variance = np.clip(covariance.diagonal(), 0, None)
    scale = _reciprocal(np.sqrt(variance)) if standardise else np.ones_like(variance)
    axes = _principal_axes(covariance * np.outer(scale, scale), components) if components else None
    return Projection(_tensor(mean), _tensor(scale), None if axes is None else _tensor(axes))


def _principal_axes(covariance: np.ndarray, components: int) -> np.ndarray:
    values, axes = torch.linalg.eigh(torch.from_numpy(covariance))  # ascending
    leading = float(values[-SCALED_BY:].clamp(min=0).mean())
    return axes.flip(1)[:, :components].numpy() / np.sqrt(leading or 1.0)


def _reciprocal(deviation: np.ndarray) -> np.ndarray:
    # A feature that fires on hardly any image would outweigh all others where it does: it is held to the floor.
    floor = LEAST_DEVIATION * float(deviation.mean())
    return 1 / np.maximum(deviation, floor) if floor else np.ones_like(deviation)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def fold_moments(bags: Bags, trains: Sequence[np.ndarray]) -> list[Moments]:
    """Moments of each of several sets of training bags, given by their indices.

    The folds of a search share most of their bags, so the moments of what each leaves out are subtracted
    from those of all.
    """
    everyone = np.unique(np.concatenate(list(trains)))
    origin = bags.instances[bags.rows(torch.from_numpy(everyone))].double().mean(0).numpy()
    of_all = moments(bags, everyone, origin)
    return [of_all - moments(bags, np.setdiff1d(everyone, train), origin) for train in trains]
