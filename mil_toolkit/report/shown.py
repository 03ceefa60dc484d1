"""`shown_places`: the patients whose images a report shows, the worst mistakes first."""

from mil_toolkit.core.files import digest
from mil_toolkit.evaluation.table import Table

MOST_WORST = MOST_BEST = 1000  # patients that are shown; each takes about 3 KB of the page


def shown_places(table: Table) -> list[int]:
    """Return the places of the patients to show: wrong in most repeats first, then by error.

    Of more than MOST_WORST + MOST_BEST patients, the first MOST_WORST and the last MOST_BEST.
    """
    wrong = (table.decisions != table.labels).mean(0)
    probabilities = table.probabilities.mean(0)
    order = sorted(
        range(len(table.labels)),
        key=lambda place: (
            -wrong[place],
            -abs(table.labels[place] - probabilities[place]),
            digest(table.patient_ids[place].encode(errors="surrogateescape")),
        ),
    )
    return order if shows_all(len(order)) else [*order[:MOST_WORST], *order[-MOST_BEST:]]


def shows_all(patients: int) -> bool:
    """Return whether all of this number of patients are shown."""
    return patients <= MOST_WORST + MOST_BEST
