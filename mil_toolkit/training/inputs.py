"""`Inputs`: what the members of all trials of one search train on, each part computed once and kept."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config.head import BY_GROUP, HeadConfig
from mil_toolkit.features.bags import PART, Bags, is_streamed
from mil_toolkit.model.instances import Instances
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projected import ProjectedFile
from mil_toolkit.training.projection import (
    CPU,
    MOST_COMPONENTS,
    Projection,
    fit_projection,
    fold_moments,
)
from mil_toolkit.training.seen import Seen

_INDEXED = 2**21  # instances of mini-batches whose indices are in memory together: 32 bytes each
ROW_MULTIPLE = 128  # the number of rows of a mini-batch is a multiple of this


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
        self.views = self._inputs_of(patients.views)
        self.outcome = patients.outcome.fitted(patients.labels)
        self._linear_start: dict[bool, Tensor] = {}
        self._held_out: dict[tuple[int, int], list[Batch]] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def views_by_group(self) -> dict[str, "ViewInputs"]:
        """The views as they are standardised within groups; see `Patients.seen_views`."""
        return self._inputs_of(self.patients.views_by_group)

    def _inputs_of(self, views: Mapping[str, Bags]) -> dict[str, "ViewInputs"]:
        alone = len(views) == 1
        return {
            name: ViewInputs(bags, self.trains, self.device, self.dtype, alone)
            for name, bags in views.items()
        }

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

    def linear_start(self, class_weights: bool) -> Tensor:
        """Return the linear model on each fold's training metadata that heads start at, (F, M + 1, C).

        class_weights: give all classes the same total weight; see `Outcome.linear_start`
        """
        if class_weights not in self._linear_start:
            fitted = [
                self.outcome.linear_start(x[train], self.patients.labels[train], class_weights)
                for x, train in zip(self.metadata.cpu().numpy(), self.trains, strict=True)
            ]
            self._linear_start[class_weights] = torch.tensor(np.stack(fitted)).float().to(self.device)
        return self._linear_start[class_weights]

    @cached_property
    def targets(self) -> Tensor:
        """The targets as the loss takes them, (B, ...); see `Outcome.training_targets`."""
        return torch.from_numpy(self.outcome.training_targets(self.patients.labels)).to(self.device)

    @cached_property
    def trains_on(self) -> Tensor:
        """Training patients of each fold, (F, B) bool on the CPU."""
        mask = torch.zeros(len(self.trains), len(self.patients), dtype=torch.bool)
        for fold, train in enumerate(self.trains):
            mask[fold, torch.from_numpy(train)] = True
        return mask

    def chosen(self, config: HeadConfig) -> list["ViewInputs"]:
        """Return the views that a configuration uses, none without images."""
        if not config.image_branch:
            return []
        views = self.views_by_group if config.standardise == BY_GROUP else self.views
        return [views[name] for name in self.patients.chosen_views(config.features)]

    def projections(self, config: HeadConfig) -> list[Projection]:
        """Return the projection of each fold for this configuration, for the views side by side."""
        by_view = [view.projections(config) for view in self.chosen(config)]
        return [Projection.side_by_side(views) for views in zip(*by_view, strict=True)]

    def view_widths(self, config: HeadConfig) -> list[int]:
        """Return the number of columns of each view's projected embeddings, none without images."""
        return [view.width(config) for view in self.chosen(config)]

    def embedding_width(self, config: HeadConfig) -> int:
        """Return the number of columns of the projected embeddings of all views, 0 without images."""
        return sum(self.view_widths(config))

    def draws_orientations(self, config: HeadConfig) -> bool:
        """Return whether training draws an orientation of each image, in one view or in several."""
        return any(view.seen(config).orientations is not None for view in self.chosen(config))

    def batches(self, patients: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield patients (b,) in mini-batches in this order.

        The indices of many mini-batches are computed and copied to the device at once, those of up to
        _INDEXED instances (or of one mini-batch), which is all of them except in very large cohorts.
        """
        parts = patients.split(batch_size)
        ends = np.cumsum([sum(self.filled_sizes(part)) for part in parts])
        for group in np.split(np.arange(len(parts)), np.flatnonzero(np.diff(ends // _INDEXED)) + 1):
            yield from self._moved([parts[place] for place in group])

    def _moved(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield the mini-batches of these patients; all their indices go to the device in one copy."""
        filled = [self.rows_of(part) for part in parts]
        rows, bags, sizes = zip(*filled, strict=True)
        pieces = [*parts, *rows, *bags]
        lengths = [len(piece) for piece in pieces]
        moved = torch.cat(pieces).to(self.device, non_blocking=True).split(lengths)
        count = len(parts)
        moved_patients, moved_rows, moved_bags = moved[:count], moved[count : 2 * count], moved[2 * count :]
        fields = zip(moved_patients, moved_rows, moved_bags, sizes, strict=True)
        return (Batch(*values) for values in fields)

    def held_out(self, batch_size: int, fold: int) -> Iterable[Batch]:
        """Return the mini-batches of the patients that a fold holds out; they are kept if they are few."""
        key = batch_size, fold
        if key in self._held_out:
            return self._held_out[key]
        batches = self.batches(self.trains_on[fold].logical_not().nonzero().flatten(), batch_size)
        packed = self.patients.bags
        if packed is not None and int(packed.offsets[-1]) > _INDEXED:
            return batches
        return self._held_out.setdefault(key, [*batches])

    def instances(
        self,
        config: HeadConfig,
        batch: Batch,
        folds: Sequence[int],
        kept: Tensor | None = None,
        drawn: Tensor | None = None,
    ) -> Instances | None:
        """Return the embeddings of a mini-batch as K members see them, or None without images.

        folds: the fold of each of the K members
        kept: (K, n) bool, the instances that dropout keeps; None keeps all
        drawn: (K, n) in [0, 1), the orientation of each image in all views, see `Seen.places`; None for the
            mean over them
        """
        views = self.chosen(config)
        if not views:
            return None
        if config.components:
            # Members of one fold share their embeddings, except if each of them draws its own orientations.
            shared = _shared_folds(folds) if drawn is None else list(folds)
            numbers = self.device_index(shared)
            x = _side_by_side(
                [view.projected_rows(config, batch.rows, shared, numbers, drawn) for view in views]
            )
            return Instances(x, batch.bag, batch.sizes, len(folds), kept=kept)
        x = _side_by_side([view.raw_rows(config, batch.rows, drawn) for view in views])
        if not config.standardise:
            return Instances(x, batch.bag, batch.sizes, len(folds), kept=kept)
        scalers = zip(*(view.scaler for view in views), strict=True)
        shift, scale = (_side_by_side(values)[self.device_index(folds), None] for values in scalers)
        return Instances(x, batch.bag, batch.sizes, len(folds), shift, scale, kept)

    def member_rows(
        self, config: HeadConfig, rows: Tensor, folds: Sequence[int], drawn: Tensor | None = None
    ) -> Tensor:
        """Return the projected embeddings (K, n, D) of other rows for each of K members.

        rows: (K, n), on the device; folds, drawn: see `instances`
        """
        numbers = self.device_index(folds)
        views = self.chosen(config)
        return _side_by_side([view.projected_rows(config, rows, folds, numbers, drawn) for view in views])

    def device_index(self, numbers: Sequence[int]) -> Tensor:
        """Return numbers of folds or members as a tensor on the device, copied there only once."""
        key = tuple(numbers)
        if key not in self._indices:
            self._indices[key] = torch.tensor(key, device=self.device)
        return self._indices[key]

    def filled_sizes(self, patients: Tensor) -> list[int]:
        """Return the sizes of these patients' bags in a mini-batch, with the bag of padding rows, if any."""
        packed = self.patients.bags
        if packed is None:
            return []
        sizes: list[int] = packed.sizes[patients].tolist()
        filler = -sum(sizes) % ROW_MULTIPLE
        return [*sizes, *[filler][: bool(filler)]]

    def rows_of(self, patients: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Return the rows of these patients' embeddings, the bag of each row, and the sizes of the bags.

        Padding rows (copies of row 0) bring the number of rows to a multiple of `ROW_MULTIPLE`. They form
        one additional bag at the end, whose output the model drops.

        bfloat16 kernels are compiled once for each shape; without padding, almost every mini-batch would have
        a new one. float32 is padded too, so that both precisions draw the same random numbers.
        """
        packed, sizes = self.patients.bags, self.filled_sizes(patients)
        if packed is None:
            return patients[:0], patients[:0], []
        rows = packed.rows(patients)
        rows = functional.pad(rows, (0, sum(sizes) - len(rows)))
        counts = torch.tensor(sizes, dtype=torch.int64)
        return rows, torch.repeat_interleave(torch.arange(len(sizes)), counts), sizes


class ViewInputs:
    """The embeddings of one view as projected in each of F folds, computed at first use and kept.

    bags: the view's embeddings; they hold the same rows in all views
    trains, device, dtype: see `Inputs`
    alone: whether it is the only view. Otherwise, the embeddings are in memory only while they are projected.
    """

    def __init__(
        self,
        bags: Bags,
        trains: Sequence[np.ndarray],
        device: torch.device,
        dtype: torch.dtype,
        alone: bool = True,
    ):
        self.bags, self.trains, self.device, self.dtype, self.alone = bags, trains, device, dtype, alone
        self._fitted: dict[tuple[bool, int], list[Projection]] = {}
        self._projected: dict[tuple[bool, bool], Tensor] = {}
        self._narrowed: dict[tuple[bool, int, bool], Tensor] = {}
        self._files: dict[tuple[bool, int, bool], ProjectedFile] = {}
        self._raw: dict[bool, Tensor] = {}

    def width(self, config: HeadConfig) -> int:
        """Return the number of columns of the projected embeddings."""
        return min(config.components, self.bags.width) if config.components else self.bags.width

    def projections(self, config: HeadConfig) -> list[Projection]:
        """Return the projection of each fold for this configuration."""
        if not config.components:
            return self._fit(bool(config.standardise), 0)
        widest = self._fit(bool(config.standardise), MOST_COMPONENTS)
        return [projection.narrowed(config.components) for projection in widest]

    def seen(self, config: HeadConfig) -> Seen:
        """Return what heads of this configuration see of the view."""
        return Seen.by(config, self.bags)

    def projected_rows(
        self, config: HeadConfig, rows: Tensor, folds: Sequence[int], numbers: Tensor, drawn: Tensor | None
    ) -> Tensor:
        """Return these rows, (n,) or (G, n), as projected in each of the G folds, (G, n, components).

        numbers: (G,) the folds, on the device; drawn: (G, n), see `Inputs.instances`
        """
        places = self.seen(config).places(rows, drawn)  # (n,) or (G, n)
        if self.reads_from_file:
            return self._projected_file(config).read(places, folds).to(self.device)
        view = self._view(config)
        starts = numbers[:, None] * view.shape[1]  # (G, 1)
        indices = (starts + places).flatten()
        return view.flatten(0, 1).index_select(0, indices).unflatten(0, (len(folds), -1))

    def raw_rows(self, config: HeadConfig, rows: Tensor, drawn: Tensor | None) -> Tensor:
        """Return rows (n,) of the embeddings without projection, (1, n, D), or (K, n, D) if drawn."""
        seen = self.seen(config)
        if self.bags.streamed:
            table = seen.read(rows.cpu()).to(self.dtype).to(self.device)
            rows = torch.arange(len(rows), device=self.device)
        else:
            table = self._raw_table(config)
        places = seen.places(rows, drawn)
        return table.index_select(0, places.flatten()).view(-1, len(rows), table.shape[1])

    @cached_property
    def scaler(self) -> tuple[Tensor, Tensor]:
        """Shifts and scales that standardise the embeddings in each fold, both (F, D)."""
        projections = self._fit(True, 0)
        shift = torch.stack([projection.shift for projection in projections])
        scale = torch.stack([projection.scale for projection in projections])
        return shift.to(self.device), scale.to(self.device)

    def _fit(self, standardise: bool, components: int, read: Bags | None = None) -> list[Projection]:
        """Return the projection of each fold to at most so many components; computed once.

        read: the bags, if they have been read
        """
        key = standardise, components
        if key not in self._fitted:
            bags = self._read() if read is None else read
            large = int(bags.offsets[-1]) > PART  # fewer take longer to copy than to sum
            moments = fold_moments(bags, self.trains, self.device if large else CPU)
            self._fitted[key] = [fit_projection(one, standardise, components) for one in moments]
        return self._fitted[key]

    def _view(self, config: HeadConfig) -> Tensor:
        """Return the embeddings (F, N * slots, components), contiguous; only the most recent is kept."""
        key = bool(config.standardise), config.components, config.augment
        if key not in self._narrowed:
            widest = self._project(config)
            self._narrowed = {key: widest[..., : self.width(config)].contiguous()}
        return self._narrowed[key]

    def _project(self, config: HeadConfig) -> Tensor:
        """Return what is seen, projected to the maximum number of components: (F, N * slots, C).

        It is computed once.
        """
        key = bool(config.standardise), config.augment
        if key not in self._projected:
            bags = self._read()
            projections = self._fit(bool(config.standardise), MOST_COMPONENTS, bags)
            seen = Seen.by(config, bags)
            count = int(bags.offsets[-1]) * seen.slots
            shape = len(projections), count, projections[0].width
            projected = torch.empty(shape, dtype=self.dtype, device=self.device)
            last = 0
            for part in _parts(seen):
                first, last = last, last + len(part)
                for fold, projection in enumerate(projections):
                    projected[fold, first:last] = projection.on(self.device, part)
            self._projected[key] = projected
        return self._projected[key]

    def _read(self) -> Bags:
        """Return the bags; those of one of several views are in memory as long as the result is used."""
        bags = self.bags
        if self.alone or self.reads_from_file or not bags.streamed:
            return bags
        return Bags(bags.instances, bags.offsets, bags.patient_ids, (), bags.orientations)

    @property
    def reads_from_file(self) -> bool:
        """Whether there are so many embeddings that the projected ones are kept in a file."""
        bags = self.bags
        if not bags.streamed:
            return False
        return self.alone or is_streamed(bags.embedding_count, bags.width)

    def _projected_file(self, config: HeadConfig) -> ProjectedFile:
        """Return the embeddings as projected in each fold; only the most recent result is kept."""
        key = bool(config.standardise), self.width(config), config.augment
        if key not in self._files:
            self._files = {}  # its space is free before the next file needs it
            projections = self.projections(config)
            seen = self.seen(config)
            self._files = {key: ProjectedFile.write(seen, projections, self.dtype, self.device)}
        return self._files[key]

    def _raw_table(self, config: HeadConfig) -> Tensor:
        """Return what is seen without projection, (N * slots, D); computed once."""
        if config.augment not in self._raw:
            parts = [part.to(self.dtype) for part in _parts(self.seen(config))]
            self._raw[config.augment] = torch.cat(parts).to(self.device)
        return self._raw[config.augment]


def _parts(seen: Seen) -> Iterator[Tensor]:
    """Yield everything that is seen, in parts if it is read from a cache."""
    if seen.orientations is None:
        yield seen.bags.instances
        return
    for rows in torch.arange(int(seen.bags.offsets[-1])).split(PART // seen.slots):
        yield seen.read(rows)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return the columns of several views side by side; those of one view are not copied.

    Views that are the same for all members, (1, n, D), are repeated beside others, (K, n, D).
    """
    if len(parts) == 1:
        return parts[0]
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, -1) for part in parts], -1)


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
