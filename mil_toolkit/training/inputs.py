"""`Inputs`: the patients of one search as the members of every trial see them; nothing is computed twice."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config import HeadConfig
from mil_toolkit.model.poolings import Instances
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import MOST_COMPONENTS, Moments, Projection, fit_projection, fold_moments

_ROUND = 128  # rows


class Batch(NamedTuple):
    """A mini-batch of b patients, and the rows of their embeddings, which a last bag fills up to a round number.

    patients: (b,) places among all; rows: (n,) and the bag (n,) that each is of, empty without images;
    sizes: rows of each bag, that of the filling included
    """

    patients: Tensor
    rows: Tensor
    bag: Tensor
    sizes: Sequence[int]


class Inputs:
    """The same patients seen from several folds, each with its own fitted projection and encoder.

    patients: all that are walked through, B of them
    trains: for each of F folds, the indices of its training patients; the rest of them is held out
    dtype: of the products (bfloat16 or float32)
    """

    def __init__(
        self,
        patients: Patients,
        trains: Sequence[np.ndarray],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.patients, self.trains, self.device, self.dtype = (
            patients,
            list(trains),
            torch.device(device),
            dtype,
        )
        self._projected: dict[bool, Tensor] = {}
        self._logistic: dict[bool, Tensor] = {}
        self._narrowed: dict[tuple[bool, int], Tensor] = {}
        self._held_out: dict[int, list[list[Batch]]] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def encoders(self) -> list[MetadataEncoder]:
        """Each fold's metadata encoder, fitted on its training patients."""
        metadata, log_columns = self.patients.metadata, self.patients.log_columns
        return [MetadataEncoder.fit(metadata.iloc[train], log_columns) for train in self.trains]

    @cached_property
    def metadata(self) -> Tensor:
        """(F, B, M) encoded metadata; a column that a fold's encoder does not know is zero in it."""
        tables = [encoder.encode(self.patients.metadata) for encoder in self.encoders]
        columns = list(dict.fromkeys(name for table in tables for name in table.columns))
        values = np.stack(
            [table.reindex(columns=columns, fill_value=0.0).to_numpy(float) for table in tables]
        )
        return torch.from_numpy(values).float().to(self.device)

    def logistic(self, class_weights: bool) -> Tensor:
        """(F, M + 1) weights and intercept of each fold's logistic regression on its training metadata."""
        if class_weights not in self._logistic:
            fitted = [self._fit_logistic(fold, class_weights) for fold in range(len(self.trains))]
            self._logistic[class_weights] = torch.tensor(np.stack(fitted)).float().to(self.device)
        return self._logistic[class_weights]

    def _fit_logistic(self, fold: int, class_weights: bool) -> np.ndarray:
        regression = LogisticRegression(class_weight="balanced" if class_weights else None)
        train = self.trains[fold]
        regression.fit(self.metadata[fold].cpu().numpy()[train], self.patients.labels[train])
        return np.append(regression.coef_[0], regression.intercept_[0])

    @cached_property
    def trains_on(self) -> Tensor:
        """(F, B) bool on the CPU, the training patients of each fold."""
        mask = torch.zeros(len(self.trains), len(self.patients), dtype=torch.bool)
        for fold, train in enumerate(self.trains):
            mask[fold, torch.from_numpy(train)] = True
        return mask

    @cached_property
    def moments(self) -> list[Moments]:
        """Each fold's moments of its training embeddings."""
        assert self.patients.bags is not None
        return fold_moments(self.patients.bags, self.trains)

    def projections(self, config: HeadConfig) -> list[Projection]:
        """Each fold's projection under this configuration."""
        if not config.components:
            return [fit_projection(each, config.standardise, 0) for each in self.moments]
        return [each.narrowed(config.components) for each in self._widest(config.standardise)]

    def embedding_width(self, config: HeadConfig) -> int:
        """Columns of the projected embeddings, 0 without images."""
        if self.patients.bags is None or not config.image_branch:
            return 0
        width = self.patients.bags.instances.shape[1]
        return min(config.components, width) if config.components else width

    def batches(self, patients: Tensor, batch_size: int) -> list[Batch]:
        """Patients (b,) in this order, `batch_size` at a time; they go to the device in one copy."""
        parts = patients.split(batch_size)
        filled = [self._filled(part) for part in parts]
        rows, bags, sizes = zip(*filled, strict=True)
        pieces = [*parts, *rows, *bags]
        moved = torch.cat(pieces).to(self.device, non_blocking=True).split([len(each) for each in pieces])
        kinds = (moved[i : i + len(parts)] for i in range(0, len(moved), len(parts)))
        return [Batch(*each) for each in zip(*kinds, sizes, strict=True)]

    def held_out(self, batch_size: int) -> list[list[Batch]]:
        """For each fold the patients that it holds out, `batch_size` at a time."""
        if batch_size not in self._held_out:
            held_out = [row.logical_not().nonzero().flatten() for row in self.trains_on]
            self._held_out[batch_size] = [self.batches(each, batch_size) for each in held_out]
        return self._held_out[batch_size]

    def instances(
        self, config: HeadConfig, batch: Batch, folds: Sequence[int], kept: Tensor | None = None
    ) -> Instances | None:
        """A mini-batch as members see it that lie in `folds` (K of them); kept (K, n) of its instances."""
        if not self.embedding_width(config):
            return None
        about = batch.bag, batch.sizes, len(folds)
        if config.components:
            shown = _groups(folds)
            starts = self.index(shown)[:, None] * self._view(config).shape[1]  # (G, 1)
            rows = (starts + batch.rows).flatten()
            x = self._view(config).flatten(0, 1).index_select(0, rows).unflatten(0, (len(shown), -1))
            return Instances(x, *about, kept=kept)
        x = self._raw.index_select(0, batch.rows)[None]
        if not config.standardise:
            return Instances(x, *about, kept=kept)
        shift, scale = (each[self.index(folds), None] for each in self._scaler)
        return Instances(x, *about, shift, scale, kept)

    def index(self, numbers: Sequence[int]) -> Tensor:
        """The numbers of folds or members as an index on the device, where they are copied to once."""
        key = tuple(numbers)
        if key not in self._indices:
            self._indices[key] = torch.tensor(key, device=self.device)
        return self._indices[key]

    def _filled(self, patients: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Rows and bags up to a multiple of `_ROUND`, the additional ones in a last bag, which the model drops.

        A bfloat16 product is compiled for each shape that comes; mini-batches of any number of rows never end
        to bring new ones. In float32 too, so that both draw the same random numbers.
        """
        packed = self.patients.bags
        if packed is None:
            return patients[:0], patients[:0], []
        rows, sizes = packed.rows(patients), packed.sizes[patients]
        filler = -len(rows) % _ROUND
        bag = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        filled = functional.pad(rows, (0, filler)), functional.pad(bag, (0, filler), value=len(sizes))
        return *filled, [*sizes.tolist(), *[filler][: bool(filler)]]

    def _widest(self, standardise: bool) -> list[Projection]:
        return [fit_projection(each, standardise, MOST_COMPONENTS) for each in self.moments]

    def _view(self, config: HeadConfig) -> Tensor:
        """(F, N, components), as rows one behind the other; kept for the configuration that asked last."""
        key = config.standardise, config.components
        if key not in self._narrowed:
            widest = self._project(config.standardise)
            self._narrowed = {key: widest[..., : self.embedding_width(config)].contiguous()}
        return self._narrowed[key]

    def _project(self, standardise: bool) -> Tensor:
        """(F, N, most components), computed once."""
        if standardise not in self._projected:
            bags = self.patients.bags
            assert bags is not None
            views = [projection(bags.instances).to(self.dtype) for projection in self._widest(standardise)]
            self._projected[standardise] = torch.stack(views).to(self.device)
        return self._projected[standardise]

    @cached_property
    def _raw(self) -> Tensor:
        """(N, D), the embeddings themselves."""
        assert self.patients.bags is not None
        return self.patients.bags.instances.to(self.dtype).to(self.device)

    @cached_property
    def _scaler(self) -> tuple[Tensor, Tensor]:
        """(F, D) shifts and (F, D) scales."""
        fitted = [fit_projection(each, True, 0) for each in self.moments]
        shift, scale = (
            torch.stack(parts) for parts in ([f.shift for f in fitted], [f.scale for f in fitted])
        )
        return shift.to(self.device), scale.to(self.device)


def _groups(folds: Sequence[int]) -> list[int]:
    """The folds once each where every one's members lie side by side, as many of each; else a fold for each member."""
    distinct = list(dict.fromkeys(folds))
    side_by_side = [fold for fold in distinct for _ in range(len(folds) // len(distinct))]
    return distinct if side_by_side == list(folds) else list(folds)
