"""Figures of an ablation."""

from collections.abc import Mapping
from typing import Any

from mil_toolkit.core.files import shown
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.report.drawing import ACCENT, INK, MUTED, Chart, canvas, to_svg, without_middle

# The ablation.


def ablation_figures(ablation: Mapping[str, Any]) -> list[Chart]:
    """What each variant loses or gains against the full model, paired."""
    figures = []
    for metric, label in (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC")):
        differences = {
            name: variant["difference"]["differences"][metric]
            for name, variant in ablation["variants"].items()
            if variant["difference"]
        }
        figure, axes = canvas(3.7, 0.62 + 0.27 * len(differences), left=1.62, bottom=0.42)
        axes.axvline(0, color=MUTED, lw=0.9)
        for place, each in enumerate(differences.values()):
            if each["value"] is None or each["low"] is None:
                continue
            clear = each["low"] > 0 or each["high"] < 0
            colour = ACCENT if clear else MUTED
            axes.plot([each["low"], each["high"]], [place, place], color=colour, lw=2.2)
            axes.plot(each["value"], place, "o" if clear else "s", color=colour, ms=5)
        axes.set_yticks(range(len(differences)), [without_middle(shown(name), 22) for name in differences])
        axes.set_ylim(len(differences) - 0.4, -0.6)
        axes.tick_params("y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel("Variant minus full model")
        words = "; ".join(f"{name} {with_interval(each, '+')}" for name, each in differences.items())
        caption = "Paired 95 % intervals over patients; violet circles: intervals without zero."
        svg = to_svg(
            figure, f"ablation-{metric}", f"Difference in {label}, variant minus full model: {words}."
        )
        figures.append(Chart(svg, f"Change of {label}", caption))
    return figures
