"""Embeddings and cohorts without flaws for the audit, and one finding among others."""

from collections.abc import Sequence

import numpy as np

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.study.records import Finding
from support.planted import Column, make_cohort

PATIENTS, IMAGES, WIDTH = 48, 10, 64
LABELS = np.arange(PATIENTS) % 2


def embeddings(seed: int = 0) -> list[np.ndarray]:
    """Return a bag of random embeddings for each patient."""
    return list(np.random.default_rng(seed).normal(size=(PATIENTS, IMAGES, WIDTH)))


def sound(groups: Sequence[str] | None = None, **columns: Column) -> Cohort:
    """Return a cohort with the given columns and one that predicts nothing."""
    noise = np.random.default_rng(5).permutation(PATIENTS) * 1.5
    return make_cohort(LABELS, {"noise": noise, **columns}, groups)


def only(findings: Sequence[Finding], kind: str) -> Finding:
    """Return the only finding of a kind."""
    (finding,) = [finding for finding in findings if finding.kind == kind]
    return finding
