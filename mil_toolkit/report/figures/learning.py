"""Learning curves."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from mil_toolkit.report.contents import Walk
from mil_toolkit.report.drawing import ACCENT, MUTED, Chart, canvas, to_svg


def learning_figures(walks: Sequence[Walk]) -> list[Chart]:
    """Training and validation curves of every search's chosen trial, the chosen epoch marked."""
    named = {"balanced_log_loss": "Balanced log-loss", "balanced_accuracy": "Balanced accuracy", "auc": "AUC"}
    figures = []
    for metric, label in named.items():
        if all(f"validation_{metric}" in walk.epochs for walk in walks):
            svg = learning({"": walks}, f"learning-{metric}", metric, label)
            caption = (
                "Violet: validation, pooled over the inner folds; grey: training. A line a search, the final one bold;"
                " dots: the epochs that were chosen, each from its own search's validation curve."
            )
            figures.append(Chart(svg, label, caption))
    return figures


def learning(groups: Mapping[str, Sequence[Walk]], name: str, metric: str, label: str) -> Markup:
    """Curves over epochs of some groups of searches; the second group is dashed."""
    figure, axes = canvas()
    words = []
    for dash, (group, walks) in zip(("-", (0, (3, 1.6))), groups.items(), strict=False):
        for walk in walks:
            bold = walk.name == "final" or len(walks) == 1
            for part, colour in (("training", MUTED), ("validation", ACCENT)):
                values = walk.epochs[f"{part}_{metric}"]
                axes.plot(
                    walk.epochs["epoch"],
                    values,
                    color=colour,
                    ls=dash,
                    lw=2 if bold else 0.9,
                    alpha=1 if bold else 0.6,
                )
            at = walk.epochs.loc[walk.epochs["epoch"] == walk.epoch, f"validation_{metric}"]
            if len(at):
                axes.plot(walk.epoch, at.iloc[0], "o", color=ACCENT, ms=5 if bold else 3.5, mew=0)
                words.append(f"{group} {walk.name}: epoch {walk.epoch}, validation {at.iloc[0]:.3f}".strip())
    axes.set(xlabel="Epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return to_svg(figure, name, f"{label} after each epoch. Chosen: {'; '.join(words)}.")


def masked_figures(walks: Mapping[str, Sequence[Walk]]) -> list[Chart]:
    """Learning curves with and without the mask."""
    first, second = walks
    figures = []
    for metric, title in (
        ("balanced_log_loss", "Balanced log-loss"),
        ("balanced_accuracy", "Balanced accuracy"),
    ):
        if all(f"validation_{metric}" in walk.epochs for each in walks.values() for walk in each):
            svg = learning(walks, f"masked-{metric}", metric, title)
            caption = f"Solid: {first.lower()}; dashed: {second.lower()}. Violet: validation; grey: training. A line an outer fold."
            figures.append(Chart(svg, title, caption))
    return figures
