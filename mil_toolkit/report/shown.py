"""`shown_places`: the patients whose images a report shows, the worst mistakes first."""

from typing import NamedTuple

import numpy as np

from mil_toolkit.core.files import digest
from mil_toolkit.evaluation.table import Table

MOST_WORST = MOST_BEST = 1000  # patients that are shown; each takes about 3 KB of the page


def shown_places(table: Table) -> list[int]:
    """Return the places of the patients to show: wrong in most repeats first, then by error.

    Of more than MOST_WORST + MOST_BEST patients, the first MOST_WORST and the last MOST_BEST.
    """
    wrong, _, errors = shown_values(table)
    order = sorted(
        range(len(table.labels)),
        key=lambda place: (
            -wrong[place],
            -errors[place],
            digest(table.patient_ids[place].encode(errors="surrogateescape")),
        ),
    )
    return order if shows_all(len(order)) else [*order[:MOST_WORST], *order[-MOST_BEST:]]


class ShownValues(NamedTuple):
    """Of each patient, (n,): the share of repeats with a wrong decision, the mean value, and its error."""

    wrong: np.ndarray
    values: np.ndarray
    errors: np.ndarray


def shown_values(table: Table) -> ShownValues:
    """Return by what patients are ordered and shown; the value of several is that of the true class.

    Of an outcome without classes, it is the first of several, such as the risk of survival.
    """
    scoring, labels, means = table.scoring, table.labels, table.probabilities.mean(0)
    decided = scoring.decision is not None
    wrong = (table.decisions != labels).mean(0) if decided else np.zeros(len(labels))
    values = means
    if means.ndim > 1:
        values = means[np.arange(len(labels)), labels if decided else 0]
    return ShownValues(wrong, values, (scoring.surprises or scoring.errors)(labels, means))


def shows_all(patients: int) -> bool:
    """Return whether all of this number of patients are shown."""
    return patients <= MOST_WORST + MOST_BEST
