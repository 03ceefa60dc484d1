"""Figures from what a study holds. Each gives its markup, or None where there is nothing to draw."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from mil_toolkit.evaluation.intervals import Table, reliability
from mil_toolkit.evaluation.metrics import METRICS, Predicted
from mil_toolkit.evaluation.words import number, with_interval
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.curves import GRID, Curve, precision_recall, roc
from mil_toolkit.report.drawing import ACCENT, BAND, COLOURS, INK, MUTED, Chart, canvas, shortened, to_svg

RIVAL_NAMES = {
    "metadata_logistic": "Metadata alone",
    "bag_size": "Number of images alone",
    "mean_logistic": "Mean embedding",
}


# Scores.


def forest(
    rows: Mapping[str, Mapping[str, Any]], name: str, metric: str, reference: float | None = None
) -> Markup:
    """A value with its interval for each row, the first one being the study's own."""
    figure, axes = canvas(4.4, 0.62 + 0.34 * len(rows), left=1.62, bottom=0.4)
    for place, score in enumerate(rows.values()):
        colour = ACCENT if place == 0 else MUTED
        if score["low"] is not None:
            axes.plot([score["low"], score["high"]], [place, place], color=colour, lw=2.2)
        if score["value"] is not None:
            axes.plot(
                score["value"], place, "o" if place == 0 else "s", color=colour, ms=6.5 if place == 0 else 5
            )
    if reference is not None:
        axes.axvline(reference, color=MUTED, lw=0.8, ls=(0, (2, 2)))
    axes.set_yticks(range(len(rows)), [shortened(row, 26) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(metric)
    words = "; ".join(f"{row} {with_interval(score)}" for row, score in rows.items())
    return to_svg(figure, name, f"{metric} with 95 % intervals: {words}.")


def outcome(contents: Contents) -> Markup:
    """The first screen's: the model and its rivals, or the validation alone."""
    scores = contents.scores
    rows = {"This model": scores["outer"]["balanced_accuracy"]} if contents.honest else {}
    for name, rival in (scores["rivals"] or {}).items():
        rows[RIVAL_NAMES.get(name, name.replace("_", " "))] = rival["balanced_accuracy"]
    if not contents.honest:
        rows["Validation"] = scores["inner"]["balanced_accuracy"]
    return forest(rows, "outcome", "Balanced accuracy", reference=0.5)


def roc_figure(contents: Contents) -> Chart:
    """The ROC curve with its band and the decisions' place."""
    figure, axes = _square("False positive rate (1 - specificity)", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=(0, (2, 2)))
    _band(axes, roc(contents.table))
    scores = contents.scores["outer"] or contents.scores["inner"]
    specificity, sensitivity = scores["specificity"]["value"], scores["sensitivity"]["value"]
    axes.plot(1 - specificity, sensitivity, "D", color=INK, ms=5.5, mec=COLOURS["paper"], zorder=5)
    alternative = (
        f"ROC curve, area {with_interval(scores['auc_pooled'])}; the chosen thresholds lie at sensitivity"
        f" {number(sensitivity)} and specificity {number(specificity)}."
    )
    caption = (
        f"Probabilities pooled over folds: area {with_interval(scores['auc_pooled'])}. Within folds, as the table has"
        f" it: {with_interval(scores['auc'])}. Diamond: where the thresholds decided. Band: 95 % over patients."
    )
    return Chart(to_svg(figure, "roc", alternative), "ROC", caption)


def precision_recall_figure(contents: Contents) -> Chart:
    """The precision-recall curve with its band."""
    figure, axes = _square("Recall (sensitivity)", "Precision")
    share = float((contents.table.labels == 1).mean())
    axes.axhline(share, color=MUTED, lw=0.8, ls=(0, (2, 2)))
    curve = precision_recall(contents.table)
    _band(axes, curve)
    at_90 = float(curve.values[90])
    alternative = (
        f"Precision-recall curve: at a recall of 0.9 the precision is {number(at_90)}; chance is {share:.3f}."
    )
    caption = (
        f"At a recall of 0.9: precision {at_90:.3f}. Dashed: the share of positives, {share:.3f}, which is chance."
        " Band: 95 % over patients."
    )
    return Chart(to_svg(figure, "precision-recall", alternative), "Precision and recall", caption)


def _square(x: str, y: str) -> tuple[Any, Axes]:
    figure, axes = canvas(height=3.1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    axes.grid()
    return figure, axes


def _band(axes: Axes, curve: Curve) -> None:
    axes.fill_between(GRID, curve.low, curve.high, step="post", color=BAND, alpha=0.3, lw=0)
    axes.step(GRID, curve.values, where="post", color=ACCENT, lw=1.8)


def reliability_figure(contents: Contents) -> Chart:
    """Observed shares of positives against probabilities."""
    figure, axes = _square("Mean predicted probability", "Share of positives")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=(0, (2, 2)))
    bins = reliability(contents.table)
    for each in bins:
        axes.plot([each["probability"]] * 2, [each["low"], each["high"]], color=BAND, lw=2)
    places = [each["probability"] for each in bins]
    axes.plot(places, [each["share"] for each in bins], "o-", color=ACCENT, ms=5, lw=1)
    scores = contents.scores["outer"] or contents.scores["inner"]
    words = "; ".join(
        f"{b['probability']:.2f} predicted, {b['share']:.2f} came ({b['patients']:.3g} patients)"
        for b in bins
    )
    caption = (
        "Bins of equal width with 95 % intervals; on the dashed line probabilities mean what they say. Brier score"
        f" {with_interval(scores['brier'])}, calibration error {number(scores['calibration_error']['value'])}."
    )
    return Chart(to_svg(figure, "reliability", f"Reliability curve: {words}."), "Reliability", caption)


def folds_figure(contents: Contents) -> Chart | None:
    """Each fold's own score, by repeat."""
    table = contents.table
    metrics = {"balanced_accuracy": ("Balanced accuracy", "o", ACCENT), "auc": ("AUC", "s", MUTED)}
    repeats = list(dict.fromkeys(sorted(contents.predictions["repeat"])))
    figure, axes = canvas(height=1.05 + 0.42 * len(repeats), left=0.85, top=0.34)
    words = []
    for offset, (metric, (label, mark, colour)) in zip((-0.14, 0.14), metrics.items(), strict=True):
        for place in range(len(repeats)):
            values = [score for score in fold_scores(table, place, metric) if np.isfinite(score)]
            axes.plot(values, [place + offset] * len(values), mark, color=colour, ms=5.5, alpha=0.75, mew=0)
            words.append(
                f"repeat {place + 1} {label} {', '.join(f'{value:.2f}' for value in sorted(values))}"
            )
        axes.plot([], [], mark, color=colour, label=label, mew=0)
    kind = "repeat" if contents.honest else "folds"
    axes.set_yticks(range(len(repeats)), [f"{kind} {each}" if contents.honest else kind for each in repeats])
    axes.set_ylim(len(repeats) - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, borderaxespad=0, handletextpad=0.1)
    return Chart(
        to_svg(figure, "folds", f"Scores of single folds: {'; '.join(words)}."),
        "Score of each fold and repeat",
        "One mark a fold. Folds are small: their scores scatter far more than the pooled one is uncertain.",
    )


def fold_scores(table: Table, repeat: int, metric: str) -> list[float]:
    """The metric in each fold of a repeat (by its place), NaN where a fold has one class alone."""
    found = []
    for fold in np.unique(table.folds[repeat]):
        chosen = table.folds[repeat] == fold
        labels = table.labels[chosen]
        if len(np.unique(labels)) < 2:
            found.append(np.nan)
            continue
        predicted = Predicted(
            labels,
            table.probabilities[repeat][chosen],
            table.decisions[repeat][chosen],
            np.zeros(len(labels)),
        )
        found.append(float(METRICS[metric].of(predicted, np.ones(len(labels)))))
    return found
