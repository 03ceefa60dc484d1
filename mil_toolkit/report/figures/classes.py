"""Figures of predicted classes that have an order."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from mil_toolkit.evaluation.records import Scores
from mil_toolkit.evaluation.table import Table
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import ACCENT, MUTED, Chart, canvas, to_svg


def rank_differences(table: Table, classes: int) -> np.ndarray:
    """Return the patients at each difference of predicted and true rank, (2 C - 1,) from 1 - C on.

    Mean over the repeats.
    """
    errors = (table.decisions - table.labels).ravel() + classes - 1
    return np.bincount(errors, minlength=2 * classes - 1) / len(table.decisions)


def rank_error_figure(contents: Contents) -> Chart:
    """Draw the errors of ranks of a study's predictions."""
    return rank_error_chart(contents.table, contents.own_scores, len(contents.class_names))


def rank_error_chart(table: Table, scores: Scores, classes: int) -> Chart:
    """Draw how many ranks the predicted class is above or below the true one; classes: their number."""
    counts = rank_differences(table, classes)
    ranks, patients = np.arange(1 - classes, classes), len(table.labels)
    figure, axes = canvas(left=0.62)
    axes.bar(ranks, counts, 0.7, color=[ACCENT if rank == 0 else MUTED for rank in ranks])
    for rank, count in zip(ranks.tolist(), counts.tolist(), strict=True):
        axes.text(rank, count, f"{100 * count / patients:.0f} %", ha="center", va="bottom", fontsize=8)
    axes.set(xlabel="Predicted minus true rank", ylabel="Patients", ylim=(0, 1.12 * counts.max()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    near = counts[np.abs(ranks) <= 1].sum() / patients
    words = (
        f"{100 * counts[classes - 1] / patients:.0f} % of the patients get their own rank,"
        f" {100 * near:.0f} % one that differs by at most one. Mean absolute difference of ranks"
        f" {with_interval(scores['rank_error'])}, quadratic kappa {with_interval(scores['quadratic_kappa'])}."
    )
    listed = ", ".join(f"{rank:+d}: {count:g}" for rank, count in zip(ranks, counts, strict=True))
    svg = to_svg(figure, "rank-errors", f"Patients by predicted minus true rank. {words} {listed}.")
    caption = f"{words} Below 0, the predicted class is lower than the true one."
    return Chart(svg, "Errors of ranks", caption)
