"""`domain_columns`: the columns `in_domain` and `reasons` of a table of predictions."""

import numpy as np
import pandas as pd

from mil_toolkit.bundle.domain.fit import FittedDomain
from mil_toolkit.bundle.domain.judge import reasons_by_patient
from mil_toolkit.bundle.records import About
from mil_toolkit.bundle.scale import other_scales, scales_words
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection

IN_DOMAIN, REASONS = "in_domain", "reasons"


def domain_columns(
    about: About, head: FittedHead, projection: Projection | None, cohort: Cohort, patients: Patients
) -> dict[str, pd.Series | list[str]]:
    """Return whether each patient is like those that a model was fitted on, and why not.

    projection: in which embeddings are compared; None for that of the head

    `in_domain` is missing (pd.NA) for all patients if the bundle does not know its domain. `reasons` is empty
    for patients in the domain; else it holds sentences that are separated by semicolons.
    """
    reasons = domain_reasons(about, head, projection, cohort, patients)
    if reasons is None:
        unknown = pd.Series(np.full(len(patients), None), dtype="boolean")
        return {IN_DOMAIN: unknown, REASONS: [""] * len(patients)}
    inside = pd.Series([not found for found in reasons], dtype="boolean")
    return {IN_DOMAIN: inside, REASONS: ["; ".join(found) for found in reasons]}


def domain_reasons(
    about: About, head: FittedHead, projection: Projection | None, cohort: Cohort, patients: Patients
) -> list[list[str]] | None:
    """Return why each patient is unlike those that a model was fitted on; None if that is not known.

    The list of a patient who is like them is empty. projection: see `domain_columns`
    """
    if about.domain is None:
        return None
    fitted = FittedDomain(about.domain, projection or head.projection)
    units = {column.name: column.unit for column in about.columns}
    reasons = reasons_by_patient(fitted, head, units, patients)
    scales = other_scales(about, cohort)
    for patient, found in zip(patients.ids, reasons, strict=True):
        if patient in scales and about.microns_per_pixel is not None:
            trained = scales_words(about.microns_per_pixel)
            found.append(f"its images have {scales[patient]:g} micrometres per pixel; training had {trained}")
    return reasons


def in_domain(table: pd.DataFrame) -> np.ndarray | None:
    """Return which patients of a table of predictions are in the domain, (n,) bool; None if unknown."""
    column = table[IN_DOMAIN]
    return None if column.isna().all() else column.to_numpy(bool)
