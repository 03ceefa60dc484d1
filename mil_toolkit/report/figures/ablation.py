"""Figures of an ablation."""

from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.evaluation.words import metric_words, with_interval
from mil_toolkit.report.drawing import ACCENT, INK, MUTED, Chart, canvas, to_svg, without_middle
from mil_toolkit.study.ablation_scores import table_metrics
from mil_toolkit.study.records import AblationScores


def ablation_figures(ablation: AblationScores) -> list[Chart]:
    """Draw the paired difference of each variant from the full model, in the primary metric first."""
    return [_differences_figure(ablation, metric) for metric in table_metrics(ablation)]


def _differences_figure(ablation: AblationScores, metric: str) -> Chart:
    label = metric_words(metric)
    differences: dict[str, Estimate] = {
        name: variant.difference.differences[metric]
        for name, variant in ablation.variants.items()
        if variant.difference
    }
    figure, axes = canvas(3.7, 0.62 + 0.27 * len(differences), left=1.62, bottom=0.42)
    axes.axvline(0, color=MUTED, lw=0.9)
    for place, difference in enumerate(differences.values()):
        value, low, high = difference.value, difference.low, difference.high
        if value is None or low is None or high is None:
            continue
        without_zero = low > 0 or high < 0
        colour = ACCENT if without_zero else MUTED
        axes.plot([low, high], [place, place], color=colour, lw=2.2)
        axes.plot(value, place, "o" if without_zero else "s", color=colour, ms=5)
    axes.set_yticks(range(len(differences)), [without_middle(printable(name), 22) for name in differences])
    axes.set_ylim(len(differences) - 0.4, -0.6)
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("Variant minus full model")
    words = "; ".join(f"{name} {with_interval(each, '+')}" for name, each in differences.items())
    alternative = f"Difference in {label}, variant minus full model: {words}."
    caption = (
        "Paired 95 % intervals over patients, not adjusted for the number of variants. Violet circles:"
        " intervals that do not contain zero."
    )
    return Chart(to_svg(figure, f"ablation-{metric}", alternative), f"Difference in {label}", caption)
