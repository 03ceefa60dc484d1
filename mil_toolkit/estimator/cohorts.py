"""`load_patients`: a cohort and its features as `X` and `y`."""

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.training.arrays import BAG
from mil_toolkit.training.patients import Patients


def load_patients(cohort: Cohort, cache: FeatureCache | None) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a cohort and its features as `X, y` for the estimators and tools of scikit-learn.

    X: one row per patient, indexed by patient id. It has the metadata columns, with numbers in the declared
        unit; where the cohort declares a logarithm, the column is called `log NAME` and holds the logarithm.
        The column `bag` holds each patient's embeddings (n, D) float16 in the order of its images; it is
        absent without a cache.
    y: (B,) the outcome of each patient; `cohort.labelled()` leaves out those without one

        - of classes: the table's words for the labels, None where unlabelled
        - of a number: the numbers, NaN where unlabelled
        - of survival: a structured array of `event` (bool) and `time` (float), as scikit-survival takes it;
          the time is NaN where unlabelled

    Raises DataError for patients without embeddings, and if a metadata column is called `bag`.
    """
    patients = Patients.of(cohort, cache)
    if BAG in patients.metadata:
        raise DataError(
            f"{cohort.source}: rename [metadata.{BAG}]; the column {BAG} is reserved for the embeddings here."
        )
    table = patients.metadata.copy()
    for name in patients.log_columns:
        table[name] = np.log(table[name])
    table = table.rename(columns={name: f"log {name}" for name in patients.log_columns})
    if patients.bags is not None:
        bags = patients.bags.instances.split(patients.bags.sizes.tolist())
        table[BAG] = pd.Series([bag.numpy() for bag in bags], table.index, dtype=object)
    return table, _outcomes(patients.labels, cohort.class_names)


def _outcomes(targets: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """Return the targets of an outcome as `y`."""
    if class_names:
        return np.array([*class_names, None], dtype=object)[targets]
    if targets.ndim == 1:
        return targets
    outcomes = np.empty(len(targets), dtype=[("event", bool), ("time", float)])
    outcomes["event"] = targets[:, 1] == 1
    outcomes["time"] = np.where(targets[:, 0] > 0, targets[:, 0], np.nan)
    return outcomes
