"""The score within each fold, by repeat."""

import numpy as np

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import ACCENT, INK, Chart, canvas, to_svg
from mil_toolkit.report.names import metric_name


def metric_folds_figure(contents: Contents, metric: str) -> Chart:
    """Draw one metric within each fold, by repeat; folds in which it is not defined are left out."""
    scored, name, words = contents.table.scoring.metrics[metric], metric_name(metric), []
    count = len(contents.table.folds)
    figure, axes = canvas(height=1.05 + 0.42 * count, left=0.85, top=0.34)
    for place in range(count):
        scores = contents.table.fold_scores(place, scored)
        values = sorted(scores[np.isfinite(scores)].tolist())
        axes.plot(values, [place] * len(values), "o", color=ACCENT, ms=5.5, alpha=0.75, mew=0)
        words.append(f"repeat {place + 1}: {', '.join(f'{value:.3g}' for value in values)}")
    axes.set_yticks(range(count), [f"repeat {place + 1}" for place in range(count)])
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.set_xlabel(name)
    axes.grid(axis="x")
    svg = to_svg(figure, "folds", f"{name} within folds: {'; '.join(words)}.")
    caption = "One mark for each fold. Folds are small, so their scores scatter more than the overall score."
    return Chart(svg, "Scores within folds", caption)
