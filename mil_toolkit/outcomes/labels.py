"""`Labels`: what outcomes share whose targets are the numbers of classes."""

from typing import Self

import numpy as np

from mil_toolkit.outcomes.outcome import Exclusion, Outcome
from mil_toolkit.outcomes.words import Words, excluded_rows


class Labels(Outcome):
    """An outcome of classes in a column of words; targets: (n,) of 0 to C - 1, -1 for unlabelled patients.

    label: the column; exclude: words of rows that are left out
    """

    label: str | None
    exclude: Words | None

    @property
    def table_columns(self) -> dict[str, str]:
        """The label column."""
        return {} if self.label is None else {"label": self.label}

    @property
    def exclusion(self) -> Exclusion | None:
        """The rows whose label `exclude` lists."""
        return excluded_rows(self.label, self.exclude)

    def known(self, targets: np.ndarray) -> np.ndarray:
        """Return which patients are labelled, (n,) bool."""
        return np.asarray(targets >= 0)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the class of each patient, (n,)."""
        return targets.astype(int)

    def fitted(self, targets: np.ndarray) -> Self:
        """Return the outcome itself."""
        return self

    def training_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the numbers of the classes, (n,)."""
        return targets.astype(np.float32)
