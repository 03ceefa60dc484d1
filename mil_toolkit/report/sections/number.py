"""The sections of the page about an outcome that is a number."""

from dataclasses import replace

from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.figures.number import (
    agreement_figure,
    error_folds_figure,
    observed_figure,
    target_figures,
)
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.data import DataSection, findings_section
from mil_toolkit.report.sections.scores import ScoresSection, common_section
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.report.sections.use import UseSection, common_use_section
from mil_toolkit.study.subgroups import Subgroup, subgroups

SUBGROUP_METRICS = ("mae", "rmse", "spearman")
FEWEST = 5  # patients of a subgroup that are scored


def number_scores(contents: Contents) -> ScoresSection:
    """Return the section on the scores: tables, predicted against observed, and agreement."""
    charts = [observed_figure(contents), agreement_figure(contents), error_folds_figure(contents)]
    return common_section(contents, "", charts)


def number_use(contents: Contents) -> UseSection:
    """Return the section on the use: subgroups, and whether more patients would help."""
    return replace(common_use_section(contents), subgroups=_subgroup_table(contents))


def number_data(contents: Contents, anonymise: bool) -> DataSection:
    """Return the section on the data: the target and what it may depend on."""
    return replace(findings_section(contents, anonymise), charts=target_figures(contents))


def _subgroup_table(contents: Contents) -> ScoreTable | None:
    groups = [] if contents.patients is None else subgroups(contents.patients)
    known = set(contents.table.patient_ids)
    rows = [_subgroup_row(contents, group) for group in groups if known >= set(group.patient_ids)]
    if not rows:
        return None
    caption = (
        "Held-out patients, 95 % intervals. Subgroups overlap and are small: differences between them may be"
        " due to chance, and no conclusion is drawn from them."
    )
    return ScoreTable(
        "Scores in subgroups", caption, ["", "Patients", *map(metric_name, SUBGROUP_METRICS)], rows
    )


def _subgroup_row(contents: Contents, group: Subgroup) -> Row:
    table = contents.table.select(group.patient_ids)
    cells: list[Cell | None] = [None] * len(SUBGROUP_METRICS)
    if len(table.labels) >= FEWEST and table.scoring.scorable(table.labels):
        scores = scores_with_intervals(table)
        cells = [cell(scores[name]) for name in SUBGROUP_METRICS]
    return Row(
        f"{printable(group.variable)}: {printable(group.level)}", [Cell(f"{len(table.labels)}"), *cells]
    )
