"""`Inputs`: what the members of all trials of one search train on, each part computed once and kept."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config import HeadConfig
from mil_toolkit.features.bags import PART, StreamedBags
from mil_toolkit.model.poolings import Instances
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projected import ProjectedFile
from mil_toolkit.training.projection import (
    CPU,
    MOST_COMPONENTS,
    Moments,
    Projection,
    fit_projection,
    fold_moments,
)

_ROW_MULTIPLE = 128  # the number of rows of a mini-batch is a multiple of this


class Batch(NamedTuple):
    """A mini-batch of b patients and the n rows of their embeddings, padding rows included.

    patients: (b,) positions among all patients
    rows: (n,) rows of the packed embeddings; empty without images
    bag: (n,) the bag of each row; padding rows have bag b
    sizes: number of rows of each bag, including the bag of padding rows if there are any
    """

    patients: Tensor
    rows: Tensor
    bag: Tensor
    sizes: Sequence[int]


class Inputs:
    """The inputs of B patients in each of F folds, with the projection and the encoder fitted on that fold.

    patients: the B patients, training and held-out
    trains: for each fold, the indices of its training patients; it holds out all others
    dtype: precision of the products in training, bfloat16 or float32

    Everything computed from a fold uses its training patients only. It is computed at first use and then
    kept, since all trials of a search share it.
    """

    def __init__(
        self,
        patients: Patients,
        trains: Sequence[np.ndarray],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.patients, self.trains = patients, list(trains)
        self.device, self.dtype = torch.device(device), dtype
        self._widest: dict[bool, list[Projection]] = {}
        self._projected: dict[bool, Tensor] = {}
        self._logistic: dict[bool, Tensor] = {}
        self._narrowed: dict[tuple[bool, int], Tensor] = {}
        self._files: dict[tuple[bool, int], ProjectedFile] = {}
        self._held_out: dict[int, list[list[Batch]]] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def encoders(self) -> list[MetadataEncoder]:
        """Metadata encoder of each fold, fitted on its training patients."""
        metadata, log_columns = self.patients.metadata, self.patients.log_columns
        return [MetadataEncoder.fit(metadata.iloc[train], log_columns) for train in self.trains]

    @cached_property
    def metadata(self) -> Tensor:
        """Encoded metadata (F, B, M); a column that a fold's encoder does not have is zero in that fold."""
        tables = [encoder.encode(self.patients.metadata) for encoder in self.encoders]
        columns = list(dict.fromkeys(name for table in tables for name in table.columns))
        values = np.stack(
            [table.reindex(columns=columns, fill_value=0.0).to_numpy(float) for table in tables]
        )
        return torch.from_numpy(values).float().to(self.device)

    def logistic(self, class_weights: bool) -> Tensor:
        """Return weights and intercept of a logistic regression on each fold's training metadata, (F, M + 1).

        class_weights: give both classes the same total weight
        """
        if class_weights not in self._logistic:
            fitted = [self._fit_logistic(fold, class_weights) for fold in range(len(self.trains))]
            self._logistic[class_weights] = torch.tensor(np.stack(fitted)).float().to(self.device)
        return self._logistic[class_weights]

    def _fit_logistic(self, fold: int, class_weights: bool) -> np.ndarray:
        from sklearn.linear_model import LogisticRegression  # to apply a model, it is not needed

        regression = LogisticRegression(class_weight="balanced" if class_weights else None)
        train = self.trains[fold]
        regression.fit(self.metadata[fold].cpu().numpy()[train], self.patients.labels[train])
        return np.append(regression.coef_[0], regression.intercept_[0])

    @cached_property
    def trains_on(self) -> Tensor:
        """Training patients of each fold, (F, B) bool on the CPU."""
        mask = torch.zeros(len(self.trains), len(self.patients), dtype=torch.bool)
        for fold, train in enumerate(self.trains):
            mask[fold, torch.from_numpy(train)] = True
        return mask

    @cached_property
    def moments(self) -> list[Moments]:
        """Moments of each fold's training embeddings."""
        assert self.patients.bags is not None
        bags = self.patients.bags
        large = int(bags.offsets[-1]) > PART  # fewer take longer to copy than to sum
        return fold_moments(bags, self.trains, self.device if large else CPU)

    def projections(self, config: HeadConfig) -> list[Projection]:
        """Return the projection of each fold for this configuration."""
        if not config.components:
            return [fit_projection(moments, config.standardise, 0) for moments in self.moments]
        widest = self._widest_projections(config.standardise)
        return [projection.narrowed(config.components) for projection in widest]

    def embedding_width(self, config: HeadConfig) -> int:
        """Return the number of columns of the projected embeddings, 0 without images."""
        if self.patients.bags is None or not config.image_branch:
            return 0
        width = self.patients.bags.width
        return min(config.components, width) if config.components else width

    def batches(self, patients: Tensor, batch_size: int) -> list[Batch]:
        """Divide patients (b,) into mini-batches in this order; all indices go to the device in one copy."""
        parts = patients.split(batch_size)
        filled = [self._filled(part) for part in parts]
        rows, bags, sizes = zip(*filled, strict=True)
        pieces = [*parts, *rows, *bags]
        lengths = [len(piece) for piece in pieces]
        moved = torch.cat(pieces).to(self.device, non_blocking=True).split(lengths)
        count = len(parts)
        moved_patients, moved_rows, moved_bags = moved[:count], moved[count : 2 * count], moved[2 * count :]
        fields = zip(moved_patients, moved_rows, moved_bags, sizes, strict=True)
        return [Batch(*values) for values in fields]

    def held_out(self, batch_size: int) -> list[list[Batch]]:
        """Return, for each fold, the mini-batches of the patients that it holds out."""
        if batch_size not in self._held_out:
            held_out = [row.logical_not().nonzero().flatten() for row in self.trains_on]
            self._held_out[batch_size] = [self.batches(patients, batch_size) for patients in held_out]
        return self._held_out[batch_size]

    def instances(
        self, config: HeadConfig, batch: Batch, folds: Sequence[int], kept: Tensor | None = None
    ) -> Instances | None:
        """Return the embeddings of a mini-batch as K members see them, or None without images.

        folds: the fold of each of the K members
        kept: (K, n) bool, the instances that dropout keeps; None keeps all
        """
        if not self.embedding_width(config):
            return None
        if config.components:
            x = self._projected_rows(config, batch.rows, _shared_folds(folds))
            return Instances(x, batch.bag, batch.sizes, len(folds), kept=kept)
        x = self._raw_rows(batch.rows)[None]
        if not config.standardise:
            return Instances(x, batch.bag, batch.sizes, len(folds), kept=kept)
        shift, scale = (values[self.device_index(folds), None] for values in self._scaler)
        return Instances(x, batch.bag, batch.sizes, len(folds), shift, scale, kept)

    def _projected_rows(self, config: HeadConfig, rows: Tensor, folds: Sequence[int]) -> Tensor:
        """Return these rows (n,) as projected in each of the G folds, (G, n, components)."""
        if self._streamed is not None:
            return self._projected_file(config, self._streamed).read(rows, folds).to(self.device)
        view = self._view(config)
        starts = self.device_index(folds)[:, None] * view.shape[1]  # (G, 1)
        indices = (starts + rows).flatten()
        return view.flatten(0, 1).index_select(0, indices).unflatten(0, (len(folds), -1))

    def device_index(self, numbers: Sequence[int]) -> Tensor:
        """Return numbers of folds or members as a tensor on the device, copied there only once."""
        key = tuple(numbers)
        if key not in self._indices:
            self._indices[key] = torch.tensor(key, device=self.device)
        return self._indices[key]

    def _filled(self, patients: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Return the rows of these patients' embeddings, the bag of each row, and the sizes of the bags.

        Padding rows (copies of row 0) bring the number of rows to a multiple of `_ROW_MULTIPLE`. They form
        one additional bag at the end, whose output the model drops.

        bfloat16 kernels are compiled once for each shape; without padding, almost every mini-batch would have
        a new one. float32 is padded too, so that both precisions draw the same random numbers.
        """
        packed = self.patients.bags
        if packed is None:
            return patients[:0], patients[:0], []
        rows, sizes = packed.rows(patients), packed.sizes[patients]
        filler = -len(rows) % _ROW_MULTIPLE
        bag = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        filled = functional.pad(rows, (0, filler)), functional.pad(bag, (0, filler), value=len(sizes))
        return *filled, [*sizes.tolist(), *[filler][: bool(filler)]]

    def _widest_projections(self, standardise: bool) -> list[Projection]:
        """Return the projection of each fold to the maximum number of components; computed once."""
        if standardise not in self._widest:
            folds = [fit_projection(moments, standardise, MOST_COMPONENTS) for moments in self.moments]
            self._widest[standardise] = folds
        return self._widest[standardise]

    def _view(self, config: HeadConfig) -> Tensor:
        """Return the embeddings (F, N, components), contiguous; only the most recent result is kept."""
        key = config.standardise, config.components
        if key not in self._narrowed:
            widest = self._project(config.standardise)
            self._narrowed = {key: widest[..., : self.embedding_width(config)].contiguous()}
        return self._narrowed[key]

    def _project(self, standardise: bool) -> Tensor:
        """Return the embeddings projected to the maximum number of components, (F, N, C); computed once."""
        if standardise not in self._projected:
            bags = self.patients.bags
            assert bags is not None
            projections = self._widest_projections(standardise)
            views = [projection.on(self.device, bags.instances).to(self.dtype) for projection in projections]
            self._projected[standardise] = torch.stack(views)
        return self._projected[standardise]

    @property
    def _streamed(self) -> StreamedBags | None:
        """The patients' bags if their embeddings are not kept in memory."""
        return self.patients.bags if isinstance(self.patients.bags, StreamedBags) else None

    def _projected_file(self, config: HeadConfig, bags: StreamedBags) -> ProjectedFile:
        """Return the embeddings as projected in each fold; only the most recent result is kept."""
        key = config.standardise, self.embedding_width(config)
        if key not in self._files:
            self._files = {}  # its space is free before the next file needs it
            projections = self.projections(config)
            self._files = {key: ProjectedFile.write(bags, projections, self.dtype, self.device)}
        return self._files[key]

    def _raw_rows(self, rows: Tensor) -> Tensor:
        """Return rows (n,) of the embeddings without projection, (n, D)."""
        if self._streamed is not None:
            return self._streamed.embeddings(rows.cpu()).to(self.dtype).to(self.device)
        return self._raw.index_select(0, rows)

    @cached_property
    def _raw(self) -> Tensor:
        """Embeddings without projection, (N, D)."""
        assert self.patients.bags is not None
        return self.patients.bags.instances.to(self.dtype).to(self.device)

    @cached_property
    def _scaler(self) -> tuple[Tensor, Tensor]:
        """Shifts and scales that standardise the embeddings in each fold, both (F, D)."""
        projections = [fit_projection(moments, True, 0) for moments in self.moments]
        shift = torch.stack([projection.shift for projection in projections])
        scale = torch.stack([projection.scale for projection in projections])
        return shift.to(self.device), scale.to(self.device)


def _shared_folds(folds: Sequence[int]) -> list[int]:
    """Return the folds to project for, so that members of one fold share their embeddings if possible.

    Sharing needs the members of each fold side by side, and the same number of members in each fold.
    Otherwise the result has one entry per member.

    >>> _shared_folds([0, 0, 1, 1]), _shared_folds([0, 1, 0, 1])
    ([0, 1], [0, 1, 0, 1])
    """
    distinct = list(dict.fromkeys(folds))
    side_by_side = [fold for fold in distinct for _ in range(len(folds) // len(distinct))]
    return distinct if side_by_side == list(folds) else list(folds)
