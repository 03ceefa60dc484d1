"""Figures of the scores."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.intervals import Table, reliability, scores_with_intervals
from mil_toolkit.evaluation.recalibration import calibration, smooth_curve
from mil_toolkit.evaluation.records import Estimate, Scores
from mil_toolkit.evaluation.words import calibration_words, number, with_interval
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.curves import GRID, Curve, precision_recall, roc
from mil_toolkit.report.drawing import ACCENT, BAND, COLOURS, INK, MUTED, Chart, canvas, shortened, to_svg
from mil_toolkit.report.names import baseline_name, metric_name

_DASHED = (0, (2, 2))
_CHANCE = {  # the score of predictions that say nothing
    **dict.fromkeys(("auc", "auc_pooled", "macro_auc"), 0.5),
    **dict.fromkeys(("concordance", "concordance_harrell", "concordance_uno"), 0.5),
    **dict.fromkeys(("kappa", "quadratic_kappa", "spearman", "r2"), 0.0),
}


def comparison_figure(contents: Contents) -> Markup:
    """Draw the primary metric of the model and the baselines or, without outer folds, of validation."""
    metric = contents.primary_metric
    rows: dict[str, Estimate] = {}
    if contents.nested:
        rows["This model"] = contents.own_scores[metric]
    for name, baseline in (contents.scores.rivals or {}).items():
        rows[baseline_name(name)] = baseline[metric]
    if not contents.nested:
        rows["Validation"] = contents.scores.inner[metric]
    return _forest(rows, "outcome", metric_name(metric), chance_of(contents, metric))


def chance_of(contents: Contents, metric: str) -> float | None:
    """Return the score of predictions by chance; None where it is not known."""
    if metric == "balanced_accuracy":
        return 1 / len(contents.class_names)
    return _CHANCE.get(metric)


def _forest(rows: Mapping[str, Estimate], name: str, metric: str, reference: float | None) -> Markup:
    """Draw a value with its interval for each row; the first one is emphasised."""
    figure, axes = canvas(4.4, 0.62 + 0.34 * len(rows), left=1.62, bottom=0.4)
    for place, estimate in enumerate(rows.values()):
        colour, mark, size = (ACCENT, "o", 6.5) if place == 0 else (MUTED, "s", 5)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, lw=2.2)
        if estimate.value is not None:
            axes.plot(estimate.value, place, mark, color=colour, ms=size)
    if reference is not None:
        axes.axvline(reference, color=MUTED, lw=0.8, ls=_DASHED)
    axes.set_yticks(range(len(rows)), [shortened(row, 21) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(metric)
    words = "; ".join(f"{row} {with_interval(estimate)}" for row, estimate in rows.items())
    return to_svg(figure, name, f"{metric} with 95 % intervals: {words}.")


def class_roc_figure(table: Table, name: str, place: int) -> Chart:
    """Draw the ROC curve of one class against all others with its band; place: of the class, from 0."""
    figure, axes = _square("False positive rate (1 - specificity)", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=_DASHED)
    _draw_band(axes, roc(table))
    scores = scores_with_intervals(table)
    caption = f"{_area_words(table, scores)} Band: 95 % over patients."
    title = f"ROC curve of {name} against all others"
    return Chart(to_svg(figure, f"roc-{place}", f"{title}. {caption}"), title, caption)


def _area_words(table: Table, scores: Scores, within: str = "Within folds") -> str:
    """Return the area under a curve and, of several folds, that within folds."""
    pooled = f"Area under the curve {with_interval(scores['auc_pooled'])}"
    if table.one_model:
        return f"{pooled}."
    return f"{pooled}, with probabilities pooled over folds. {within}: {with_interval(scores['auc'])}."


def roc_figure(contents: Contents) -> Chart:
    """Draw the ROC curve of a study."""
    return roc_chart(contents.table, contents.own_scores)


def roc_chart(table: Table, scores: Scores) -> Chart:
    """Draw the ROC curve with its band, and the sensitivity and specificity of the decisions."""
    figure, axes = _square("False positive rate (1 - specificity)", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=_DASHED)
    _draw_band(axes, roc(table))
    specificity, sensitivity = scores["specificity"].value, scores["sensitivity"].value
    if specificity is not None and sensitivity is not None:
        axes.plot(1 - specificity, sensitivity, "D", color=INK, ms=5.5, mec=COLOURS["paper"], zorder=5)
    pooled = with_interval(scores["auc_pooled"])
    alternative = (
        f"ROC curve, area {pooled}; the chosen thresholds give a sensitivity of {number(sensitivity)} and a"
        f" specificity of {number(specificity)}."
    )
    area = _area_words(table, scores, "Within folds, as in the table")
    caption = f"{area} Diamond: the chosen thresholds. Band: 95 % over patients."
    return Chart(to_svg(figure, "roc", alternative), "ROC curve", caption)


def precision_recall_figure(contents: Contents) -> Chart:
    """Draw the precision-recall curve with its band."""
    figure, axes = _square("Recall (sensitivity)", "Precision")
    share = float((contents.table.labels == 1).mean())
    axes.axhline(share, color=MUTED, lw=0.8, ls=_DASHED)
    curve = precision_recall(contents.table)
    _draw_band(axes, curve)
    at_90 = float(curve.values[90])
    alternative = (
        f"Precision-recall curve: precision {number(at_90)} at a recall of 0.9; chance is {share:.3f}."
    )
    caption = (
        f"Precision {at_90:.3f} at a recall of 0.9. Dashed line: chance, the share of positives"
        f" ({share:.3f}). Band: 95 % over patients."
    )
    return Chart(to_svg(figure, "precision-recall", alternative), "Precision-recall curve", caption)


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = canvas(height=3.1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    axes.grid()
    return figure, axes


def _draw_band(axes: Axes, curve: Curve) -> None:
    axes.fill_between(GRID, curve.low, curve.high, step="post", color=BAND, alpha=0.3, lw=0)
    axes.step(GRID, curve.values, where="post", color=ACCENT, lw=1.8)


def reliability_figure(contents: Contents) -> Chart:
    """Draw the calibration of a study's predictions."""
    return reliability_chart(contents.table, contents.own_scores)


def reliability_chart(
    table: Table, scores: Scores, name: str = "reliability", title: str = "Calibration"
) -> Chart:
    """Draw the observed share of positives against the predicted probability, in bins and as a curve.

    name: of the figure, unique in the page
    """
    figure, axes = _square("Predicted probability", "Share of positives")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=_DASHED)
    curve = smooth_curve(table)
    if curve is not None:
        axes.fill_between(curve.probabilities, curve.low, curve.high, color=BAND, alpha=0.3, lw=0)
        axes.plot(curve.probabilities, curve.shares, color=ACCENT, lw=1.8)
    bins = reliability(table)
    for b in bins:
        axes.plot([b["probability"]] * 2, [b["low"], b["high"]], color=MUTED, lw=1)
    axes.plot([b["probability"] for b in bins], [b["share"] for b in bins], "o", color=INK, ms=4)
    words = "; ".join(
        f"predicted {b['probability']:.2f}, observed {b['share']:.2f} ({count_of(b['patients'], 'patient')})"
        for b in bins
    )
    alternative = f"{title}. {_calibration_words(table)} In bins: {words}."
    return Chart(to_svg(figure, name, alternative), title, _calibration_caption(table, scores))


def _calibration_words(table: Table) -> str:
    """Return intercept and slope with their intervals; both are undefined for separable classes."""
    result = calibration(table)
    if result.slope.value is None:
        return "Intercept and slope are not defined, because the predictions separate the classes."
    return (
        f"Intercept (calibration in the large) {with_interval(result.intercept)}, ideally 0; slope"
        f" {with_interval(result.slope)}, ideally 1."
    )


def _calibration_caption(table: Table, scores: Scores) -> str:
    return (
        f"{_calibration_words(table)} Violet: a logistic regression on a spline of the logit, with its 95"
        " % band. Dots: bins of equal width with 95 % intervals. Dashed line: perfect calibration. Brier"
        f" score {with_interval(scores['brier'])}, calibration error"
        f" {calibration_words(scores['calibration_error'])}."
    )


def folds_figure(contents: Contents) -> Chart:
    """Draw the score within each fold, by repeat."""
    area = contents.table.scoring.discrimination
    metrics = {"balanced_accuracy": ("Balanced accuracy", "o", ACCENT), area: (metric_name(area), "s", MUTED)}
    repeats = list(dict.fromkeys(sorted(contents.predictions["repeat"])))
    figure, axes = canvas(height=1.05 + 0.42 * len(repeats), left=0.85, top=0.34)
    words = []
    for offset, (metric, (label, mark, colour)) in zip((-0.14, 0.14), metrics.items(), strict=True):
        scored = contents.table.scoring.metrics[metric]
        for place in range(len(repeats)):
            values = [score for score in contents.table.fold_scores(place, scored) if np.isfinite(score)]
            axes.plot(values, [place + offset] * len(values), mark, color=colour, ms=5.5, alpha=0.75, mew=0)
            words.append(
                f"repeat {place + 1} {label} {', '.join(f'{value:.2f}' for value in sorted(values))}"
            )
        axes.plot([], [], mark, color=colour, label=label, mew=0)
    names = [f"repeat {repeat}" if contents.nested else "folds" for repeat in repeats]
    axes.set_yticks(range(len(repeats)), names)
    axes.set_ylim(len(repeats) - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, borderaxespad=0, handletextpad=0.1)
    return Chart(
        to_svg(figure, "folds", f"Scores within folds: {'; '.join(words)}."),
        "Scores within folds",
        "One mark for each fold. Folds are small, so their scores scatter much more than the overall score.",
    )
