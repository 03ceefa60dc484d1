"""The saturation mask: scores and training curves with and without it, from an ablation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.words import number, with_interval
from mil_toolkit.report.contents import FULL, Contents, TrainingCurve
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.training import mask_figures
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.study.records import AblationScores

SATURATION_MASK = "saturation-mask"  # in the names of features
_METRICS = ("balanced_accuracy", "auc")
_HEADS = (
    "Images",
    "Training balanced accuracy",
    "Validation balanced accuracy",
    "Outer balanced accuracy",
    "Outer AUC",
)


@dataclass(frozen=True)
class MaskComparison:
    """Scores and training curves with and without the mask."""

    table: ScoreTable
    charts: list[Chart]


def mask_comparison(contents: Contents) -> MaskComparison | None:
    """Return the comparison; None where there was no ablation with features of both kinds."""
    ablation = contents.ablation
    if ablation is None or not set(_METRICS) <= set(contents.own_scores):
        return None
    own, *others = ablation.features
    other = _with_other_mask(str(own), others, contents.ablation_curves)
    if other is None:
        return None
    variants = dict(sorted({_name(str(own)): FULL, _name(other): other}.items()))
    curves = {name: contents.ablation_curves[variant] for name, variant in variants.items()}
    rows = [_row(name, ablation, variant, curves[name]) for name, variant in variants.items()]
    caption = (
        "Mean training and validation scores at the chosen epochs, and outer scores."
        f" {_differences(ablation, str(own), other)}"
    )
    table = ScoreTable("With and without the saturation mask", caption, _HEADS, rows)
    return MaskComparison(table, mask_figures(curves))


def _with_other_mask(
    own: str, others: Sequence[str | None], curves: Mapping[str, Sequence[TrainingCurve]]
) -> str | None:
    """Return the first other features, among those with curves, that differ in whether a mask was applied."""
    known = (name for name in others if name is not None and name in curves)
    return next((name for name in known if _masked(name) != _masked(own)), None)


def _masked(features: str) -> bool:
    return f"-{SATURATION_MASK}-" in features


def _name(features: str) -> str:
    return "With the mask" if _masked(features) else "Without the mask"


def _differences(ablation: AblationScores, own: str, other: str) -> str:
    difference = ablation.variants[other].difference
    assert difference is not None  # only the full model has none
    words = [f"{metric_name(name)} {with_interval(difference.differences[name], '+')}" for name in _METRICS]
    return f"{_name(other)} minus {_name(own).lower()}: {', '.join(words)}."


def _row(name: str, ablation: AblationScores, variant: str, curves: Sequence[TrainingCurve]) -> Row:
    scores = ablation.variants[variant].scores
    at_chosen = [_at_chosen(curves, f"{part}_balanced_accuracy") for part in ("training", "validation")]
    return Row(name, [*at_chosen, *(cell(scores[metric]) for metric in _METRICS)], own=variant == FULL)


def _at_chosen(curves: Sequence[TrainingCurve], score: str) -> Cell:
    """Return the mean score at the epochs that the folds chose; a dash where a fold lacks it."""
    rows = [curve.scores[curve.scores["epoch"] == curve.epoch] for curve in curves]
    known = all(score in row and len(row) for row in rows)
    return Cell(number(float(np.mean([row[score].iloc[0] for row in rows])) if known else None))
