"""`Patients`: labelled or unlabelled patients with their bags and metadata."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.features.cache import FeatureCache

if TYPE_CHECKING:
    from mil_toolkit.features.bags import Bags  # imports torch


@dataclass(frozen=True)
class Patients:
    """The data of B patients, in one order.

    bags: their embeddings, or None without images
    labels: (B,) of 0 and 1, or -1 where unknown
    metadata: B rows of unencoded values, indexed by patient id
    log_columns: names of the metadata columns whose logarithm the encoder takes
    groups: (B,) of names, or None where no groups are declared
    """

    bags: "Bags | None"
    labels: np.ndarray
    metadata: pd.DataFrame
    log_columns: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    @classmethod
    def of(cls, cohort: Cohort, cache: FeatureCache | None) -> "Patients":
        """Return all patients of a cohort, with embeddings from the cache, or without images if it is None.

        Raises DataError for patients without embeddings.
        """
        bags = None if cache is None else cache.bags(cohort.patient_ids)
        log_columns = tuple(column.name for column in cohort.columns if column.transform == "log")
        return cls(bags, cohort.labels.astype(np.int64), cohort.metadata, log_columns, cohort.groups)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> list[str]:
        """Patient ids, in order."""
        return list(self.metadata.index)

    def take(self, indices: np.ndarray) -> "Patients":
        """Return the patients at these positions, in this order."""
        metadata = self.metadata.iloc[indices]
        bags = None if self.bags is None else self.bags.select(list(metadata.index))
        groups = None if self.groups is None else self.groups[indices]
        return Patients(bags, self.labels[indices], metadata, self.log_columns, groups)
