"""The scores of a study within subgroups of its patients."""

from collections.abc import Callable, Sequence

import numpy as np

from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.study.subgroups import Subgroup, subgroups

FEWEST = 5  # patients of a subgroup that are scored

Describe = Callable[[np.ndarray], str]  # targets of a subgroup -> what stands below the number of patients


def _nothing(targets: np.ndarray) -> str:
    return ""


def subgroup_table(
    contents: Contents, metrics: Sequence[str], describe: Describe = _nothing, fewest: int = FEWEST
) -> ScoreTable | None:
    """Return the scores within subgroups, without a verdict: most are too small for one.

    describe: see `Describe`; fewest: patients of a subgroup that is scored. None if there are no subgroups.
    """
    groups = [] if contents.patients is None else subgroups(contents.patients)
    known = set(contents.table.patient_ids)
    rows = [
        _row(contents, group, metrics, describe, fewest)
        for group in groups
        if known >= set(group.patient_ids)
    ]
    if not rows:
        return None
    caption = (
        "Held-out patients, 95 % intervals. Subgroups overlap and are small: differences between them may be"
        " due to chance, and no conclusion is drawn from them."
    )
    return ScoreTable("Scores in subgroups", caption, ["", "Patients", *map(metric_name, metrics)], rows)


def _row(contents: Contents, group: Subgroup, metrics: Sequence[str], describe: Describe, fewest: int) -> Row:
    table = contents.table.select(group.patient_ids)
    cells: list[Cell | None] = [None] * len(metrics)
    if len(table.labels) >= fewest and table.scoring.scorable(table.labels):
        scores = scores_with_intervals(table)
        cells = [cell(scores[name]) for name in metrics]
    counts = Cell(f"{len(table.labels)}", describe(table.labels))
    return Row(f"{printable(group.variable)}: {printable(group.level)}", [counts, *cells])
