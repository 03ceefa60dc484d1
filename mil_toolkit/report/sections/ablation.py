"""The ablation: scores of all variants."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mil_toolkit.core.text import count_of, counted, printable
from mil_toolkit.evaluation.words import comparison_words, metric_with_direction, p_value
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.ablation import ablation_figures
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell, difference_cells
from mil_toolkit.study.ablation_scores import table_metrics
from mil_toolkit.study.records import AblationScores, VariantScores

_EQUAL_BAGS = "equal-bags"  # the full model on the same number of images of each patient
_GROUPED = ("standardise-cohort", "standardise-group")  # of which one is left out if it is the full model
_CAPTION = (
    "Differences are variant minus full model, paired on the same patients. p: of a single comparison. Holm:"
    " the same p-value, adjusted for the number of variants (Holm 1979)."
)


@dataclass(frozen=True)
class AblationSection:
    """The section on the ablation; notes: gains over metadata only, and variants without scores."""

    summary: str
    charts: list[Chart]
    table: ScoreTable
    notes: list[str]


def ablation_section(ablation: AblationScores) -> AblationSection:
    """Return the section on an ablation."""
    metrics = table_metrics(ablation)
    rows = [_row(name, variant, metrics) for name, variant in ablation.variants.items()]
    table = ScoreTable("Ablation", _CAPTION, _heads(metrics), rows)
    return AblationSection(_summary(ablation), ablation_figures(ablation), table, list(_notes(ablation)))


def _heads(metrics: Sequence[str]) -> list[str]:
    primary, *others = map(metric_name, metrics)
    heads = [""]
    for name in (f"{primary} (primary)", *others):
        heads += [name, "minus full", "p", "Holm"]
    return [*heads, "Discordant patients", "Unchanged folds"]


def _summary(ablation: AblationScores) -> str:
    first = "The best configuration of each outer fold with one change, scored on held-out patients."
    if ablation.retuned:
        return f"{first} Each variant had its own search with {count_of(ablation.retuned, 'trial')}."
    return (
        f"{first} All other settings are those that were best for the full model, which favours it;"
        " mil-ablate --retune N avoids this."
    )


def _row(name: str, variant: VariantScores, metrics: Sequence[str]) -> Row:
    difference, cells = variant.difference, list[Cell | None]()
    adjusted = variant.p_adjusted or {}
    for metric in metrics:
        cells.append(cell(variant.scores[metric]))
        cells += difference_cells(difference.differences[metric] if difference else None)
        cells.append(Cell(p_value(adjusted.get(metric))) if difference else None)
    if difference is None:
        return Row(printable(name), [*cells, None, None], own=True)
    unchanged = sum(fold.unchanged for fold in variant.folds)
    cells += [
        Cell("-" if difference.discordant is None else counted(difference.discordant)),
        Cell(f"{unchanged} of {len(variant.folds)}"),
    ]
    return Row(printable(name), cells)


def _notes(ablation: AblationScores) -> Iterator[str]:
    if not ablation.variants.keys().isdisjoint(_GROUPED):
        yield (
            "Models that standardise embeddings within each group do so by the group's own moments, those of"
            " held-out groups included, without labels (a transductive step)."
        )
    for name, gain in ablation.gains.items():
        images = "all images"
        if name == _EQUAL_BAGS and ablation.images_of_equal_bags:
            images = f"{count_of(ablation.images_of_equal_bags, 'image')} of each patient"
        metric = ablation.primary_metric
        name, words = metric_with_direction(metric), comparison_words(gain, metric)
        yield f"Gain of the full model over metadata only, on {images}, in {name}: {words}"
    for name, reason in ablation.left_out.items():
        yield f"{printable(name)} is left out because {reason}."
