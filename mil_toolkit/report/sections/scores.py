"""The scores: tables, confusion matrix, curves and training curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mil_toolkit.core.text import count_of, counted
from mil_toolkit.evaluation.table import Table
from mil_toolkit.evaluation.words import metric_words, number, spread_words, table_metrics, threshold_rule
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.scores import (
    folds_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from mil_toolkit.report.figures.training import training_figures
from mil_toolkit.report.names import baseline_words, metric_name
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.study.methods import transductive_words
from mil_toolkit.study.records import StudyScores

_FIGURES: tuple[Callable[[Contents], Chart], ...] = (
    roc_figure,
    precision_recall_figure,
    reliability_figure,
    folds_figure,
)


@dataclass(frozen=True)
class Count:
    """A cell of the confusion matrix; share: of the true class; look: its classes in the style sheet."""

    patients: str
    share: str
    look: str


@dataclass(frozen=True)
class ScoresSection:
    """The section on scores.

    table: the main metrics; others: all other metrics, None if there are no others
    matrix: rows of the true class, columns of the predicted one; patients are means over repeats. Empty if
        nothing is decided.
    heat: whether the matrix is coloured by shares
    thresholds, spread: sentences; spread may be None
    details: further tables of the kind of outcome, such as that of each class
    """

    table: ScoreTable
    others: ScoreTable | None
    matrix: list[list[Count]]
    thresholds: str
    spread: str | None
    charts: list[Chart]
    training: list[Chart]
    details: Sequence[ScoreTable] = ()
    heat: bool = False


def scores_section(contents: Contents) -> ScoresSection:
    """Return the section on the scores of a study of two classes."""
    charts = [draw(contents) for draw in _FIGURES]
    return common_section(contents, _thresholds(contents), charts)


def common_section(
    contents: Contents,
    thresholds: str,
    charts: list[Chart],
    details: Sequence[ScoreTable] = (),
    heat: bool = False,
) -> ScoresSection:
    """Return the section with the parts that all outcomes have."""
    main = table_metrics(contents.primary_metric, contents.own_scores)
    others = [name for name in contents.table.scoring.metrics if name not in main]
    return ScoresSection(
        table=metrics_table("Scores", contents, main),
        others=metrics_table("All other metrics", contents, others) if others else None,
        matrix=confusion_matrix(contents.table, len(contents.class_names), heat),
        thresholds=thresholds,
        spread=spread_words(contents.scores.spread),
        charts=charts,
        training=training_figures(contents.curves),
        details=details,
        heat=heat,
    )


def metrics_table(name: str, contents: Contents, metrics: Sequence[str]) -> ScoreTable:
    """Return the scores of the model and the baselines, a column for each metric."""
    score = contents.own_scores[contents.primary_metric]
    caption = (
        f"{count_of(score.patients, 'patient')}, {count_of(score.repeats, 'repeat')}; 95 % intervals over"
        f" patients. The primary metric, {metric_words(contents.primary_metric)}, carries the verdict; all"
        " others are secondary."
    )
    if words := transductive_words(contents.study.config, contents.study.description.features):
        caption = f"{caption} {words}"
    heads = [_head(metric, contents.primary_metric) for metric in metrics]
    return ScoreTable(name, caption, ["", *heads], _rows(contents.scores, metrics))


def _head(metric: str, primary: str) -> str:
    return f"{metric_name(metric)} (primary)" if metric == primary else metric_name(metric)


def _rows(scores: StudyScores, metrics: Sequence[str]) -> list[Row]:
    training = scores.training or {}
    rows = [
        Row("Training", [Cell(number(training.get(metric))) for metric in metrics]),
        Row("Validation (inner folds)", [cell(scores.inner[metric]) for metric in metrics]),
    ]
    if scores.outer:
        rows.append(
            Row("Outer (held-out patients)", [cell(scores.outer[metric]) for metric in metrics], own=True)
        )
    rows += [
        Row(f"Baseline: {baseline_words(name)}", [cell(baseline[metric]) for metric in metrics])
        for name, baseline in (scores.rivals or {}).items()
    ]
    return rows


def confusion_matrix(table: Table, classes: int, heat: bool) -> list[list[Count]]:
    """Return a row for each true class, with a count for each predicted one; heat: as cells of a heat map."""
    numbers = range(classes)
    return [[_count(table, label, decided, heat) for decided in numbers] for label in numbers]


def _count(table: Table, label: int, decided: int, heat: bool) -> Count:
    of_class = table.labels == label
    patients = float((table.decisions[:, of_class] == decided).sum(1).mean())
    share = 100 * patients / max(1, int(of_class.sum()))
    look = "right" if label == decided else "wrong"
    if not heat:
        return Count(counted(patients), f"{share:.0f} % of the class", look)
    return Count(counted(patients), f"{share:.0f} %", f"{look} heat{round(share / 10)}")


def _thresholds(contents: Contents) -> str:
    config, threshold = contents.study.config, contents.best.decision.constants["threshold"]
    return (
        "Thresholds apply to calibrated probabilities. Rule:"
        f" {threshold_rule(config.threshold_rule)}. Threshold of the final model:"
        f" {threshold:.3f}."
    )
