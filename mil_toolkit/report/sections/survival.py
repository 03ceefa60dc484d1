"""The sections of the page about survival."""

from dataclasses import replace

import numpy as np

from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.survival_calibration import ObservedRisk
from mil_toolkit.evaluation.words import number
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.figures.folds import metric_folds_figure
from mil_toolkit.report.figures.survival import (
    brier_figure,
    followed_words,
    risk_calibration_figure,
    survival_data_figures,
    survival_outcome,
    thirds_figure,
)
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.data import DataSection, findings_section
from mil_toolkit.report.sections.scores import ScoresSection, common_section
from mil_toolkit.report.sections.subgroups import subgroup_table
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.report.sections.use import UseSection, common_use_section
from mil_toolkit.report.survival import (
    BRIER,
    Calibration,
    NullModel,
    Third,
    Thirds,
    calibration,
    median_follow_up,
    median_survival,
    null_model,
    thirds,
    times_and_events,
)

SUBGROUP_METRICS = ("concordance_harrell",)  # the others would weight by the censoring of a few patients


def survival_scores(contents: Contents) -> ScoresSection:
    """Return the section on the scores: survival by predicted third, calibration, and Brier scores."""
    horizon = survival_outcome(contents).by
    parts, result = thirds(contents.table, horizon), calibration(contents.table, horizon)
    null = null_model(contents.table, horizon)
    charts = [
        thirds_figure(contents, parts),
        risk_calibration_figure(contents, result),
        brier_figure(contents, null),
        metric_folds_figure(contents, "concordance_harrell"),
    ]
    tables = [
        _thirds_table(parts, horizon),
        _calibration_table(result, horizon),
        _brier_table(contents, null),
    ]
    return common_section(contents, "", charts, tables)


def _thirds_table(parts: Thirds, horizon: float) -> ScoreTable:
    heads = [
        "Predicted risk",
        "Patients",
        "Events",
        f"Mean predicted risk at {horizon:g}",
        f"Observed risk at {horizon:g}",
        "Median survival",
    ]
    caption = (
        "Thirds of the predicted risk, within folds. Observed risk: by the Kaplan-Meier curve, with its 95 %"
        " interval. Median survival: the time at which half of the patients had the event."
    )
    return ScoreTable("Predicted thirds", caption, heads, [_third_row(part) for part in parts.groups])


def _third_row(part: Third) -> Row:
    median = median_survival(part.times, part.events)
    return Row(
        part.name,
        [
            Cell(f"{len(part.times)}"),
            Cell(f"{int(part.events.sum())}"),
            Cell(number(part.predicted)),
            _risk_cell(part.observed),
            Cell("not reached" if median is None else f"{median:.4g}"),
        ],
    )


def _risk_cell(risk: ObservedRisk) -> Cell:
    if risk.followed_to is not None:
        return Cell("unknown", followed_words(risk.followed_to))
    return Cell(number(risk.value), f"{number(risk.low)} to {number(risk.high)}")


def _calibration_table(result: Calibration, horizon: float) -> ScoreTable:
    rows = [
        Row(
            f"Group {place}",
            [
                Cell(f"{group.patients}"),
                Cell(number(group.predicted)),
                _risk_cell(group.observed),
            ],
        )
        for place, group in enumerate(result.groups, 1)
    ]
    everyone = [
        Cell(f"{sum(group.patients for group in result.groups)}"),
        Cell(number(result.predicted)),
        _risk_cell(result.observed),
    ]
    heads = ["", "Patients", f"Mean predicted risk at {horizon:g}", f"Observed risk at {horizon:g}"]
    caption = "Groups of patients with similar predicted risks, lowest first, with 95 % intervals."
    return ScoreTable(
        "Calibration at the horizon", caption, heads, [*rows, Row("All patients", everyone, own=True)]
    )


def _brier_table(contents: Contents, null: NullModel) -> ScoreTable:
    rows = [
        Row("This model", [cell(contents.own_scores[name]) for name in BRIER], own=True),
        Row("Null model", [cell(null.scores[name]) for name in BRIER]),
        Row("Difference", [cell(null.differences[name], "+") for name in BRIER]),
    ]
    caption = (
        f"Lower is better, with 95 % intervals. The null model predicts {null.words}; the difference is"
        " paired on the same patients."
    )
    return ScoreTable("Brier scores beside the null model", caption, ["", *map(metric_name, BRIER)], rows)


def survival_use(contents: Contents) -> UseSection:
    """Return the section on the use: subgroups, and whether more patients would help."""
    subgroups = subgroup_table(contents, SUBGROUP_METRICS, _events)
    if subgroups is not None:
        caption = (
            f"{subgroups.caption} Without Uno's C and the Brier scores, because their weights need the"
            " censoring of more patients than a subgroup has."
        )
        subgroups = replace(subgroups, caption=caption)
    return replace(common_use_section(contents), subgroups=subgroups)


def _events(targets: np.ndarray) -> str:
    return count_of(int((targets[:, 1] == 1).sum()), "event")


def survival_data(contents: Contents, anonymise: bool) -> DataSection:
    """Return the section on the data: survival of the cohort and by each column."""
    return replace(findings_section(contents, anonymise), charts=survival_data_figures(contents))


def survival_facts(contents: Contents) -> dict[str, str]:
    """Return what is predicted, and how many events there are in how long a follow-up."""
    outcome, (times, events) = survival_outcome(contents), times_and_events(contents.table)
    followed = median_follow_up(times, events)
    early = int(outcome.strata(contents.table.labels).sum())
    median = "not reached" if followed is None else f"median {followed:.4g}"
    return {
        "Outcome": outcome.text.definition(()),
        "Events": (
            f"{int(events.sum())}, of which {early} up to {outcome.by:g}; {int((~events).sum())} patients"
            " censored"
        ),
        "Follow-up": f"{median} (reverse Kaplan-Meier), at most {times.max():.4g}",
    }
