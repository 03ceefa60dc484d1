"""The sections of the page about an outcome that is a number."""

from dataclasses import replace

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.figures.folds import metric_folds_figure
from mil_toolkit.report.figures.number import (
    agreement_figure,
    observed_figure,
    target_figures,
)
from mil_toolkit.report.sections.data import DataSection, findings_section
from mil_toolkit.report.sections.scores import ScoresSection, common_section
from mil_toolkit.report.sections.subgroups import subgroup_table
from mil_toolkit.report.sections.use import UseSection, common_use_section

SUBGROUP_METRICS = ("mae", "rmse", "spearman")


def number_scores(contents: Contents) -> ScoresSection:
    """Return the section on the scores: tables, predicted against observed, and agreement."""
    charts = [observed_figure(contents), agreement_figure(contents), metric_folds_figure(contents, "mae")]
    return common_section(contents, "", charts)


def number_use(contents: Contents) -> UseSection:
    """Return the section on the use: subgroups, and whether more patients would help."""
    return replace(common_use_section(contents), subgroups=subgroup_table(contents, SUBGROUP_METRICS))


def number_facts(contents: Contents) -> dict[str, str]:
    """Return what is predicted."""
    return {"Outcome": contents.study.outcome.text.definition(())}


def number_data(contents: Contents, anonymise: bool) -> DataSection:
    """Return the section on the data: the target and what it may depend on."""
    return replace(findings_section(contents, anonymise), charts=target_figures(contents))
