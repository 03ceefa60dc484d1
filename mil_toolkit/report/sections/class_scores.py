"""The scores of a study of several classes: each class against all others, and the errors of ranks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mil_toolkit.core.text import by_name, printable
from mil_toolkit.evaluation.class_scoring import table_of_class
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.evaluation.words import number
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.classes import rank_error_figure
from mil_toolkit.report.figures.scores import class_roc_figure, folds_figure
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.scores import ScoresSection, common_section
from mil_toolkit.report.sections.subgroups import subgroup_table
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.report.sections.use import UseSection, common_use_section

SUBGROUP_METRICS = ("balanced_accuracy", "macro_f1", "macro_auc")
ORDERED_SUBGROUP_METRICS = ("balanced_accuracy", "quadratic_kappa", "rank_error")
_OF_CLASS = ("sensitivity", "specificity", "ppv", "npv", "auc")


def class_scores_section(contents: Contents) -> ScoresSection:
    """Return the section on the scores of a study of several classes."""
    return _section(contents, [])


def ordered_scores_section(contents: Contents) -> ScoresSection:
    """Return the section on the scores of a study of ordered classes."""
    return _section(contents, [rank_error_figure(contents)])


def _section(contents: Contents, charts: Sequence[Chart]) -> ScoresSection:
    tables = [table_of_class(contents.table, place) for place in range(len(contents.class_names))]
    named = list(zip(tables, map(printable, contents.class_names), strict=True))
    rocs = [class_roc_figure(table, name, place) for place, (table, name) in enumerate(named)]
    rows = []
    for table, name in named:
        scores = scores_with_intervals(table)
        counts = Cell(f"{int(table.labels.sum())}")
        rows.append(Row(name, [counts, *(cell(scores[metric]) for metric in _OF_CLASS)]))
    heads = ["", "Patients", *map(metric_name, _OF_CLASS)]
    caption = "Each class against all others, 95 % intervals over patients."
    by_class = ScoreTable("Scores of each class", caption, heads, rows)
    charts = [*charts, *rocs, folds_figure(contents)]
    return common_section(contents, _decision_words(contents), charts, [by_class], heat=True)


def class_use_section(contents: Contents) -> UseSection:
    """Return the section on the use of a model of several classes."""
    return _use_section(contents, SUBGROUP_METRICS)


def ordered_use_section(contents: Contents) -> UseSection:
    """Return the section on the use of a model of ordered classes."""
    return _use_section(contents, ORDERED_SUBGROUP_METRICS)


def _use_section(contents: Contents, metrics: Sequence[str]) -> UseSection:
    names = list(map(printable, contents.class_names))

    def counts(labels: np.ndarray) -> str:
        return by_name(names, [int((labels == place).sum()) for place in range(len(names))])

    return replace(common_use_section(contents), subgroups=subgroup_table(contents, metrics, counts))


def _decision_words(contents: Contents) -> str:
    """Return how a class is predicted, with the shares by the final model."""
    constants = contents.best.decision.constants.values()
    shares = by_name(list(map(printable, contents.class_names)), [number(share) for share in constants])
    return (
        "The class is predicted whose calibrated probability is the largest multiple of its share among the"
        f" training patients. Shares of the final model: {shares}."
    )
