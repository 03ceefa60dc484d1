"""`Patients`: labelled or unlabelled patients with their bags and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import BY_GROUP, HeadConfig, view_names
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.training.group_checks import check_groups
from mil_toolkit.training.view_checks import check_views

if TYPE_CHECKING:
    from mil_toolkit.features.bags import Bags  # imports torch


Features = FeatureCache | Sequence[FeatureCache] | None
"""The features of a study or of a model: one cache, several views of the same images, or none."""


def caches_of(features: Features) -> tuple[FeatureCache, ...]:
    """Return the caches of some features; none for metadata only."""
    if features is None:
        return ()
    return (features,) if isinstance(features, FeatureCache) else tuple(features)


@dataclass(frozen=True)
class Patients:
    """The data of B patients, in one order.

    bags: their embeddings, or None without images; of several views, those of the first one
    labels: the targets of the outcome, whose first axis is the patients
    metadata: B rows of unencoded values, indexed by patient id
    log_columns: names of the metadata columns whose logarithm the encoder takes
    groups: (B,) of names, or None where no groups are declared
    view_names: names of the views
    other_bags: embeddings of the same images in the other views
    outcome: what is predicted
    """

    bags: "Bags | None"
    labels: np.ndarray
    metadata: pd.DataFrame
    log_columns: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    view_names: tuple[str, ...] = ("",)
    other_bags: "tuple[Bags, ...]" = ()
    outcome: Outcome = field(default_factory=Binary)

    @classmethod
    def of(cls, cohort: Cohort, features: Features, names: Sequence[str] | None = None) -> "Patients":
        """Return all patients of a cohort, with their embeddings in each view; None is without images.

        names: of the views; by default those of the cache folders

        Of several views, embeddings stay in the shards until they are needed, so that they are never all in
        memory. Raises DataError for patients without embeddings, and for views of other images.
        """
        caches = caches_of(features)
        check_views(caches, cohort.patient_ids)
        log_columns = tuple(column.name for column in cohort.columns if column.transform == "log")
        targets = cohort.labels.astype(np.int64 if cohort.labels.dtype.kind == "i" else np.float64)
        patients = cls(None, targets, cohort.metadata, log_columns, cohort.groups, outcome=cohort.outcome)
        named = names or [cache.folder.name for cache in caches]
        bags = [_bags(cache, cohort.patient_ids, alone=len(caches) == 1) for cache in caches]
        return patients.with_views(dict(zip(named, bags, strict=True))) if bags else patients

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> list[str]:
        """Patient ids, in order."""
        return list(self.metadata.index)

    @property
    def views(self) -> "dict[str, Bags]":
        """The bags of each view by its name, empty without images."""
        if self.bags is None:
            return {}
        return dict(zip(self.view_names, (self.bags, *self.other_bags), strict=True))

    @property
    def has_orientations(self) -> bool:
        """Whether any view has embeddings of several orientations of the images."""
        return any(bags.orientations is not None for bags in self.views.values())

    def chosen_views(self, features: str) -> "dict[str, Bags]":
        """Return the views that a value of `HeadConfig.features` names; the default names all."""
        views = self.views
        return {name: views[name] for name in view_names(features) or views}

    def seen_views(self, config: HeadConfig) -> "dict[str, Bags]":
        """Return the views that a configuration uses, standardised within groups where it says so.

        The moments of a group are those of its patients here; labels are not used. Raises DataError where
        groups are missing or too small for that, see `group_problems`.
        """
        chosen = self.chosen_views(config.features)
        if config.standardise != BY_GROUP:
            return chosen
        return {name: self.views_by_group[name] for name in chosen}

    @cached_property
    def views_by_group(self) -> "dict[str, Bags]":
        """All views, standardised within groups when they are read; see `seen_views`."""
        from mil_toolkit.training.by_group import GroupBags  # imports torch

        groups = check_groups(self.groups)
        return {name: GroupBags(bags, groups) for name, bags in self.views.items()}

    def with_views(self, views: "Mapping[str, Bags]") -> "Patients":
        """Return the same patients with these views, one or more."""
        first, *others = views.values()
        return replace(self, bags=first, view_names=tuple(views), other_bags=tuple(others))

    def take(self, indices: np.ndarray) -> "Patients":
        """Return the patients at these positions, in this order."""
        metadata = self.metadata.iloc[indices]
        ids = list(metadata.index)
        bags = None if self.bags is None else self.bags.select(ids)
        groups = None if self.groups is None else self.groups[indices]
        others, labels = tuple(bags.select(ids) for bags in self.other_bags), self.labels[indices]
        return replace(self, bags=bags, labels=labels, metadata=metadata, groups=groups, other_bags=others)


def _bags(cache: FeatureCache, patient_ids: Sequence[str], alone: bool) -> "Bags":
    """Return a view's bags; alone: load them unless there are very many, else leave them in the shards."""
    if alone:
        return cache.bags(patient_ids)
    from mil_toolkit.features.bags import StreamedBags  # imports torch

    return StreamedBags(cache.winners(patient_ids), cache.spec["width"])
