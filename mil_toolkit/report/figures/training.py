"""Training curves: scores after each epoch."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mil_toolkit.report.contents import TrainingCurve
from mil_toolkit.report.drawing import ACCENT, MUTED, Chart, canvas, to_svg

Curves = Sequence[TrainingCurve]
Dash = str | tuple[float, tuple[float, ...]]
_TITLES = {
    "balanced_log_loss": "Balanced log-loss",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC",
    "macro_auc": "Macro AUC",
    "mae": "MAE",
    "r2": "R2",
    "integrated_brier": "Integrated Brier score",
    "concordance_harrell": "Harrell's C",
}
_OF_MASKS = ("balanced_log_loss", "balanced_accuracy")
_DASHES: tuple[Dash, ...] = ("-", (0, (3, 1.6)))


def training_figures(curves: Curves) -> list[Chart]:
    """Draw training and validation scores after each epoch of every search's chosen trial."""
    caption = (
        "Violet: validation, pooled over the inner folds. Grey: training. One line for each search, the final"
        " one bold. Dots: the chosen epochs; each was chosen on the validation curve of its own search."
    )
    return [
        Chart(_curves({"": curves}, f"training-{metric}", metric), title, caption)
        for metric, title in _TITLES.items()
        if _all_have(curves, metric)
    ]


def mask_figures(groups: Mapping[str, Curves]) -> list[Chart]:
    """Draw training curves with and without the saturation mask, for two groups of curves by name."""
    first, second = groups
    caption = (
        f"Solid: {first.lower()}. Dashed: {second.lower()}. Violet: validation. Grey: training. One line for"
        " each outer fold."
    )
    return [
        Chart(_curves(groups, f"masked-{metric}", metric), _TITLES[metric], caption)
        for metric in _OF_MASKS
        if all(_all_have(curves, metric) for curves in groups.values())
    ]


def _all_have(curves: Curves, metric: str) -> bool:
    return all(f"validation_{metric}" in curve.scores for curve in curves)


def _curves(groups: Mapping[str, Curves], name: str, metric: str) -> Markup:
    """Draw the curves of up to two groups of searches; the second group is dashed."""
    figure, axes = canvas(left=0.74)  # room for ticks with three decimals
    chosen = []
    for dash, (group, curves) in zip(_DASHES, groups.items(), strict=False):
        for curve in curves:
            value = _draw(axes, curve, metric, dash, bold=curve.search == "final" or len(curves) == 1)
            if value is not None:
                words = f"{group} {curve.search}: epoch {curve.epoch}, validation {value:.3f}"
                chosen.append(words.strip())
    axes.set(xlabel="Epoch", ylabel=_TITLES[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return to_svg(figure, name, f"{_TITLES[metric]} after each epoch. Chosen: {'; '.join(chosen)}.")


def _draw(axes: Axes, curve: TrainingCurve, metric: str, dash: Dash, bold: bool) -> float | None:
    """Draw one curve and its chosen epoch; return the validation score there, None where unknown."""
    epochs = curve.scores["epoch"]
    width, alpha = (2.0, 1.0) if bold else (0.9, 0.6)
    for part, colour in (("training", MUTED), ("validation", ACCENT)):
        axes.plot(epochs, curve.scores[f"{part}_{metric}"], color=colour, ls=dash, lw=width, alpha=alpha)
    at = curve.scores.loc[epochs == curve.epoch, f"validation_{metric}"]
    if at.empty:
        return None
    axes.plot(curve.epoch, at.iloc[0], "o", color=ACCENT, ms=5 if bold else 3.5, mew=0)
    return float(at.iloc[0])
