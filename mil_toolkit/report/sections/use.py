"""What a clinic asks: net benefit, scores in subgroups, and whether more patients would help."""

from dataclasses import dataclass

import numpy as np

from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.corrected_t import corrected_t
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.evaluation.sample_size import sample_size
from mil_toolkit.evaluation.words import metric_words, p_value, with_interval
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.use import decision_figure, learning_curve_figure
from mil_toolkit.report.sections.subgroups import subgroup_table
from mil_toolkit.report.sections.tables import ScoreTable
from mil_toolkit.study.by_outcome import METADATA
from mil_toolkit.study.learning_words import learning_words

SUBGROUP_METRICS = ("balanced_accuracy", "sensitivity", "specificity", "auc")


@dataclass(frozen=True)
class UseSection:
    """The section on the use of a model; subgroups: None where the study stores no metadata.

    notes: sentences on more patients, the sample size and the spread over training sets
    """

    charts: list[Chart]
    subgroups: ScoreTable | None
    notes: list[str]


def use_section(contents: Contents) -> UseSection:
    """Return the section on the use of a study's model."""
    charts = [decision_figure(contents)]
    notes = []
    if contents.learning_curve is not None:
        charts.append(learning_curve_figure(contents.learning_curve))
        notes += learning_words(contents.learning_curve)
    notes += [words for words in (_sample_size_words(contents), training_sets_words(contents)) if words]
    return UseSection(charts, subgroup_table(contents, SUBGROUP_METRICS, _positives, fewest=2), notes)


def _positives(labels: np.ndarray) -> str:
    return f"{int((labels == 1).sum())} positive"


def common_use_section(contents: Contents) -> UseSection:
    """Return the section with the parts that all outcomes have: more patients, and training sets."""
    curve, varied = contents.learning_curve, training_sets_words(contents)
    notes = [*(learning_words(curve) if curve else []), *([varied] if varied else [])]
    return UseSection([learning_curve_figure(curve)] if curve else [], None, notes)


def _sample_size_words(contents: Contents) -> str | None:
    """Return the patients that a regression on the metadata needs (Riley et al. 2020)."""
    patients, rivals = contents.patients, contents.scores.rivals or {}
    if patients is None or not patients.columns:
        return None
    parameters = sum(_parameters(contents, column.name, column.kind) for column in patients.columns)
    baseline = rivals.get(METADATA[contents.study.outcome.kind])
    loss = baseline["log_loss"].value if baseline else None
    size = sample_size(parameters, float((contents.table.labels == 1).mean()), loss)
    basis = "15 % of the largest possible R2" if size.assumed else f"an R2 (Cox-Snell) of {size.r2:.2f}"
    enough = "has" if len(contents.table.labels) >= size.patients else "does not have"
    return (
        f"Sample size for a regression on the metadata (Riley et al. 2020): {size.patients} patients, for"
        f" {count_of(parameters, 'parameter')} and {basis}. This study {enough} that many"
        f" ({len(contents.table.labels)})."
    )


def _parameters(contents: Contents, name: str, kind: str) -> int:
    """Return the coefficients of a column: one for a number, one less than its categories for others."""
    assert contents.patients is not None
    if kind != "category":
        return 1
    categories = {patient.metadata[name] for patient in contents.patients.patients} - {None}
    return max(1, len(categories) - 1)


def training_sets_words(contents: Contents) -> str | None:
    """Return how much the gain over metadata only varies over training sets, which intervals omit."""
    if contents.metadata_table is None:
        return None
    metric = contents.table.scoring.metrics[contents.primary_metric]
    result = corrected_t(contents.table, contents.metadata_table, metric)
    if result is None:
        return None
    gain = with_interval(Estimate(result.value, result.low, result.high), "+")
    return (
        f"Sensitivity analysis of the gain over metadata only in {metric_words(contents.primary_metric)}:"
        f" mean over {result.folds} folds {gain}, p {p_value(result.p_value)}, by the corrected resampled"
        " t-test (Nadeau and Bengio 2003), which counts the variation of training sets besides that of"
        " patients."
    )
