"""`Projection`: the linear map from embeddings to the inputs of a head, fitted on training bags."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.features.bags import PART, Bags

MOST_COMPONENTS = 128
SCALED_BY = 16  # number of leading components whose mean variance is scaled to one
LEAST_DEVIATION = 0.01  # lower bound of a column's standard deviation, as a share of the mean over columns
CPU = torch.device("cpu")
_CHUNK = PART  # rows converted to float32 at a time


@dataclass(frozen=True)
class Moments:
    """First and second moments of the embeddings of a set of bags, each bag with the same weight.

    bags: number of bags
    total: (D,) sum over bags of the mean embedding, relative to `origin`
    outer: (D, D) sum over bags of the mean outer product, relative to `origin`
    origin: (D,)

    All arrays are float64. Subtracting the moments of a subset gives the moments of the other bags.
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
        """Mean embedding (D,), each bag with the same weight."""
        return self.origin + self.total / self.bags

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the embeddings (D, D), each bag with the same weight."""
        centre = self.total / self.bags
        return self.outer / self.bags - np.outer(centre, centre)


def bag_moments(bags: Bags, chosen: np.ndarray, origin: np.ndarray, device: torch.device = CPU) -> Moments:
    """Return the moments of the bags at positions `chosen` (b,), relative to `origin` (D,).

    Each instance has weight 1 / (size of its bag); otherwise large bags would dominate.

    device: that computes the sums, a chunk of the embeddings at a time
    """
    index = torch.from_numpy(chosen)
    roots = bags.sizes[index].float().rsqrt()
    total = torch.zeros(bags.width, dtype=torch.float64, device=device)
    outer = torch.zeros(len(total), len(total), dtype=torch.float64, device=device)
    shift = torch.from_numpy(origin).float().to(device)
    for places, part in bag_rows(bags, index):
        # Multiplied by the square root of its weight, so that each product of two rows has the full weight.
        root = roots[places, None].to(device)
        x = (bags.embeddings(part).to(device).float() - shift) * root  # (c, D)
        total += (x * root).sum(0)
        outer += x.T @ x
    return Moments(len(chosen), total.cpu().numpy(), outer.cpu().numpy(), origin)


def bag_rows(bags: Bags, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of the bags at positions `chosen` (b,), _CHUNK at a time.

    Each part is the place in `chosen` of the bag of each row, (c,), and the rows, (c,).
    """
    ends = bags.sizes[chosen].cumsum(0)
    shifts = bags.offsets[1:][chosen] - ends
    for first in range(0, int(ends[-1]) if len(ends) else 0, _CHUNK):
        numbers = torch.arange(first, min(first + _CHUNK, int(ends[-1])))
        places = torch.searchsorted(ends, numbers, right=True)
        yield places, numbers + shifts[places]


@dataclass(frozen=True)
class Projection:
    """The map (x - shift) * scale, followed by `@ components` if there are any.

    shift, scale: (D,) float32
    components: (D, C) float32, or None
    """

    shift: Tensor
    scale: Tensor
    components: Tensor | None

    @property
    def width(self) -> int:
        """Number of output columns."""
        return len(self.shift) if self.components is None else self.components.shape[1]

    @classmethod
    def side_by_side(cls, projections: "Sequence[Projection]") -> "Projection":
        """Return the projection of several views' embeddings side by side: each view by its own projection.

        The components of different views are the blocks of a block-diagonal matrix.
        """
        if len(projections) == 1:
            return projections[0]
        blocks = [one.components for one in projections if one.components is not None]
        shift, scale = (
            torch.cat([one.shift for one in projections]),
            torch.cat([one.scale for one in projections]),
        )
        return cls(shift, scale, torch.block_diag(*blocks) if blocks else None)

    def narrowed(self, components: int) -> "Projection":
        """Return the same projection with only the first components."""
        assert self.components is not None
        return Projection(self.shift, self.scale, self.components[:, :components])

    def to(self, device: torch.device) -> "Projection":
        """Return the same projection on a device."""
        components = None if self.components is None else self.components.to(device)
        return Projection(self.shift.to(device), self.scale.to(device), components)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Project embeddings (n, D) of any precision to (n, width) float32."""
        x = (embeddings.float() - self.shift) * self.scale
        return x if self.components is None else x @ self.components

    def on(self, device: torch.device, embeddings: Tensor) -> Tensor:
        """Project embeddings (n, D) of the CPU on a device: (n, width) float32 there.

        A CPU projects all of them at once, another device a chunk at a time, since they may not fit.
        """
        if device.type == "cpu":
            return self(embeddings)
        there = self.to(device)
        return torch.cat([there(part.to(device)) for part in embeddings.split(_CHUNK)])


def fit_projection(
    moments: Moments, standardise: bool, components: int, least_deviation: float = LEAST_DEVIATION
) -> Projection:
    """Return the projection for training bags with these moments.

    standardise: scale each column to variance one before the components are computed; a constant column
        becomes zero
    components: maximum number of principal components, 0 for none. They are sorted by decreasing variance and
        scaled so that the mean variance of the first SCALED_BY is one: a head then sees the same scale for
        any backbone.
    least_deviation: lower bound of a column's standard deviation, as a share of the mean over columns

    With neither, embeddings stay as they are: members then train on them without a shift, too.
    """
    covariance = moments.covariance
    mean = moments.mean if standardise or components else np.zeros_like(moments.mean)
    variance = np.clip(covariance.diagonal(), 0, None)
    scale = column_scale(np.sqrt(variance), least_deviation) if standardise else np.ones_like(variance)
    axes = _principal_axes(covariance * np.outer(scale, scale), components) if components else None
    return Projection(_tensor(mean), _tensor(scale), None if axes is None else _tensor(axes))


def _principal_axes(covariance: np.ndarray, components: int) -> np.ndarray:
    values, axes = torch.linalg.eigh(torch.from_numpy(covariance))  # ascending
    leading = float(values[-SCALED_BY:].clamp(min=0).mean())
    return axes.flip(1)[:, :components].numpy() / np.sqrt(leading or 1.0)


def column_scale(deviation: np.ndarray, least: float = LEAST_DEVIATION) -> np.ndarray:
    """Return what columns of these standard deviations (D,) are multiplied by, so that these become one.

    A deviation below `least`, as a share of the mean, is raised: a feature that is active on very few images
    would outweigh all others on these images.
    """
    floor = least * float(deviation.mean())
    return 1 / np.maximum(deviation, floor) if floor else np.ones_like(deviation)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def fold_moments(bags: Bags, trains: Sequence[np.ndarray], device: torch.device = CPU) -> list[Moments]:
    """Return the moments of each fold's training bags, given by their indices.

    device: see `bag_moments`

    Folds share most of their bags, so the moments of the bags that a fold holds out are subtracted from the
    moments of all bags, which takes fewer operations than summing over each fold's training bags.
    """
    everyone = np.unique(np.concatenate(list(trains)))
    origin = mean_instance(bags, torch.from_numpy(everyone))
    all_moments = bag_moments(bags, everyone, origin, device)
    held_out = (np.setdiff1d(everyone, train) for train in trains)
    return [all_moments - bag_moments(bags, chosen, origin, device) for chosen in held_out]


def mean_instance(bags: Bags, chosen: Tensor) -> np.ndarray:
    """Return the mean embedding (D,) of all instances of some bags (b,), each instance with the same weight.

    The last bits of the result depend on whether the embeddings are streamed.
    """
    if not bags.streamed:
        return np.asarray(bags.embeddings(bags.rows(chosen)).double().mean(0))
    total = torch.zeros(bags.width, dtype=torch.float64)
    for _, part in bag_rows(bags, chosen):
        total += bags.embeddings(part).double().sum(0)
    return np.asarray(total / int(bags.sizes[chosen].sum()))
