"""Rows of other classes that `exclude` leaves out of a cohort."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable
from mil_toolkit.core.cells import canonical_word, normal_form
from mil_toolkit.core.text import count_of, printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The rows of a table that belong to the cohort.

    table: these rows; excluded: the ids of the others, in Unicode normal form C
    rows: how many rows are left out, by the word of their label
    """

    table: TextTable
    excluded: frozenset[str]
    rows: Mapping[str, int]

    def log(self) -> None:
        """Log once how many rows are left out, and of which classes."""
        if self.rows:
            words = ", ".join(f"{count} {printable(word)!r}" for word, count in self.rows.items())
            count = count_of(sum(self.rows.values()), "row")
            logger.info("%s: leaving out %s by exclude: %s", self.table.name, count, words)


def select_rows(declared: Declaration, table: TextTable, problems: Problems) -> Selection:
    """Leave out the rows whose label `exclude` lists; nothing else in them is read.

    Reported are patients with both an excluded and another row, and a table without other rows.
    """
    ids, exclusion = table.column(declared.cohort.id), declared.outcome.exclusion
    labels = None if exclusion is None else table.column(exclusion.column)
    if ids is None or exclusion is None or labels is None:
        return Selection(table, frozenset(), {})
    out = [canonical_word(label) in exclusion.words for label in labels]
    kept = [place for place, left_out in enumerate(out) if not left_out]
    numbers = {normal_form(ids[place]): table.numbers[place] for place in kept}
    for number, patient, left_out in zip(table.numbers, map(normal_form, ids), out, strict=True):
        if left_out and patient in numbers:
            text = f"patient {printable(patient)} is excluded here, but not in row {numbers[patient]}."
            problems.add(text, table.place(number))
    if table.rows and not kept:
        problems.add(f"{table.name}: exclude leaves out all {count_of(len(out), 'row')}.")
    selected = replace(
        table,
        rows=tuple(table.rows[place] for place in kept),
        numbers=tuple(table.numbers[place] for place in kept),
    )
    excluded = frozenset(normal_form(patient) for patient, left_out in zip(ids, out, strict=True) if left_out)
    counts = Counter(label for label, left_out in zip(labels, out, strict=True) if left_out)
    return Selection(selected, excluded - numbers.keys(), counts)
