"""Figures of predicted numbers: predicted against observed, agreement, folds, and the target itself."""

from collections.abc import Sequence

import numpy as np

from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.number_calibration import Limits, bland_altman
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.evaluation.table import Table
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.outcomes.number import Number
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import ACCENT, BAND, INK, MUTED, Chart, canvas, to_svg

OBSERVED_TITLE = "Predicted and observed"
_DASHED = (0, (2, 2))


def target_name(contents: Contents) -> str:
    """Return the target with its unit, for axes and sentences."""
    return Number.of(contents.study.outcome).text.name


def observed_figure(contents: Contents) -> Chart:
    """Draw the predictions of a study against the observed numbers."""
    return observed_chart(contents.table, contents.own_scores, target_name(contents))


def observed_chart(
    table: Table, scores: Scores, target: str, name: str = "observed", title: str = OBSERVED_TITLE
) -> Chart:
    """Draw the predicted against the observed number of each patient.

    target: its name with the unit; name: of the figure, unique in the page
    """
    targets, values = table.labels, table.probabilities.mean(0)
    figure, axes = canvas(height=3.1, left=0.74)
    ends = float(min(targets.min(), values.min())), float(max(targets.max(), values.max()))
    axes.plot(ends, ends, color=MUTED, lw=0.8, ls=_DASHED)
    axes.plot(targets, values, "o", color=ACCENT, ms=4.2, alpha=0.7, mew=0)
    axes.set(xlabel=f"Observed {target}", ylabel="Predicted")
    axes.grid()
    words = (
        f"MAE {with_interval(scores['mae'])}, R2 {with_interval(scores['r2'])}, Spearman correlation"
        f"{'' if table.one_model else ' within folds'} {with_interval(scores['spearman'])}."
    )
    svg = to_svg(figure, name, f"Predicted against observed {target}. {words}")
    return Chart(svg, title, f"{words} Dashed line: perfect predictions.")


def agreement_figure(contents: Contents) -> Chart:
    """Draw the agreement of a study's predictions and the observed numbers."""
    return agreement_chart(contents.table)


def agreement_chart(table: Table) -> Chart:
    """Draw the difference of prediction and observation against their mean (Bland and Altman 1986)."""
    targets, values = table.labels, table.probabilities.mean(0)
    agreement = bland_altman(values, targets, table.units)
    figure, axes = canvas(height=3.1, left=0.74)
    for limits, style in ((agreement.bias, "-"), (agreement.lower, _DASHED), (agreement.upper, _DASHED)):
        axes.axhspan(limits.low, limits.high, color=BAND, alpha=0.3, lw=0)
        axes.axhline(limits.value, color=INK, lw=1, ls=style)
    axes.plot((values + targets) / 2, values - targets, "o", color=ACCENT, ms=4.2, alpha=0.7, mew=0)
    axes.set(xlabel="Mean of predicted and observed", ylabel="Predicted minus observed")
    axes.grid(axis="y")
    words = (
        f"Mean difference {_words(agreement.bias)}; limits of agreement, between which about 95 % of the"
        f" differences lie: {_words(agreement.lower)} and {_words(agreement.upper)}."
    )
    svg = to_svg(figure, "agreement", f"Differences of prediction and observation. {words}")
    return Chart(svg, "Agreement (Bland and Altman)", f"{words} Bands: 95 % intervals.")


def _words(limits: Limits) -> str:
    return f"{limits.value:+.3g} ({limits.low:+.3g} to {limits.high:+.3g})"


def target_figures(contents: Contents) -> list[Chart]:
    """Draw the distribution of the target, and the target against each numeric column and the bag size."""
    if contents.patients is None:
        return []
    patients = contents.patients.patients
    targets = np.array([patient.label for patient in patients], dtype=float)
    charts = [_distribution(targets, target_name(contents))]
    for place, column in enumerate(contents.patients.columns):
        if column.kind != "category":
            known = [patient.metadata[column.name] for patient in patients]
            unit = f", {printable(column.shown_unit)}" if column.shown_unit else ""
            title = printable(column.name) + unit
            charts += _against(f"column-{place}", title, known, targets, contents)
    sizes = [patient.images for patient in patients]
    if all(size is not None for size in sizes):
        charts += _against("bag-size", "Images of a patient", sizes, targets, contents)
    return charts


def _distribution(targets: np.ndarray, name: str) -> Chart:
    figure, axes = canvas(left=0.62)
    axes.hist(targets, bins="auto", color=ACCENT, alpha=0.75)
    axes.set(xlabel=name, ylabel="Patients")
    low, middle, high = np.quantile(targets, [0.25, 0.5, 0.75])
    caption = f"{len(targets)} labelled patients: median {middle:.4g}, quartiles {low:.4g} to {high:.4g}."
    return Chart(to_svg(figure, "target", f"Distribution of {name}. {caption}"), "The target", caption)


def _against(
    name: str,
    title: str,
    known: Sequence[float | str | None],
    targets: np.ndarray,
    contents: Contents,
) -> list[Chart]:
    """Draw the target against a column; nothing if the column has no values."""
    values = np.array([np.nan if value is None else float(value) for value in known])
    if not np.isfinite(values).any():
        return []
    figure, axes = canvas(left=0.74)
    axes.plot(values, targets, "o", color=ACCENT, ms=3.6, alpha=0.7, mew=0)
    axes.set(xlabel=title, ylabel=target_name(contents))
    axes.grid()
    missing = int(np.isnan(values).sum())
    caption = f"{len(values) - missing} patients." + (f" Missing for {missing}." if missing else "")
    return [Chart(to_svg(figure, name, f"Target against {title}. {caption}"), title, caption)]
