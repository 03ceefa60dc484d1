"""Figures for the use of a model: the decision curve, and the score with more training patients."""

from collections.abc import Mapping

import numpy as np

from mil_toolkit.evaluation.net_benefit import net_benefit, net_benefit_of_all
from mil_toolkit.evaluation.table import Table
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import ACCENT, BAND, INK, MUTED, Chart, canvas, to_svg
from mil_toolkit.report.names import metric_name
from mil_toolkit.study.records import LearningCurve, Statements

LOWEST, HIGHEST = 0.05, 0.95  # thresholds of studies of older versions
_THRESHOLDS = 91
_DASHED, _DOTTED = (0, (3, 1.6)), (0, (1, 1.4))


def decision_figure(contents: Contents) -> Chart:
    """Draw the net benefit of the model, of metadata only, and of referring all or no patients."""
    statements = None if contents.patients is None else contents.patients.statements
    others = {} if contents.metadata_table is None else {"metadata only": contents.metadata_table}
    return decision_chart(contents.table, others, decision_thresholds(statements))


def decision_thresholds(statements: Statements | None) -> np.ndarray:
    """Return the thresholds of a decision curve, (T,): the range that the cohort states."""
    if statements is None:
        return np.linspace(LOWEST, HIGHEST, _THRESHOLDS)
    return np.linspace(statements.lowest_threshold, statements.highest_threshold, _THRESHOLDS)


def decision_chart(table: Table, others: Mapping[str, Table], thresholds: np.ndarray) -> Chart:
    """Draw the net benefit of a model, of at most one other, and of referring all or no patients.

    others: the predictions of the other one by its name, which is drawn dashed; thresholds: (T,)
    """
    model, everyone = net_benefit(table, thresholds), net_benefit_of_all(table, thresholds)
    figure, axes = canvas(height=3.1, left=0.62)
    axes.fill_between(thresholds, model.low, model.high, color=BAND, alpha=0.3, lw=0)
    axes.plot(thresholds, model.values, color=ACCENT, lw=1.9)
    for other in others.values():
        axes.plot(thresholds, net_benefit(other, thresholds).values, color=INK, lw=1.3, ls=_DASHED)
    axes.plot(thresholds, everyone.values, color=MUTED, lw=1.2, ls=_DOTTED)
    axes.axhline(0, color=MUTED, lw=0.8)
    upper = np.where(np.isnan(model.high), model.values, model.high)
    highest = max(float(upper.max()), float(everyone.values.max()))
    axes.set(ylim=(-0.25 * highest, 1.08 * highest), xlabel="Threshold probability", ylabel="Net benefit")
    axes.grid()
    alternative = _alternative(table, others, thresholds)
    return Chart(to_svg(figure, "decision", alternative), "Decision curve", _caption(others))


def _alternative(table: Table, others: Mapping[str, Table], thresholds: np.ndarray) -> str:
    """Return the net benefits at three thresholds."""
    shown = thresholds[[0, len(thresholds) // 2, -1]]
    curves = {"the model": net_benefit(table, shown), "referring all": net_benefit_of_all(table, shown)}
    curves |= {name: net_benefit(other, shown) for name, other in others.items()}
    parts = [
        f"at {threshold:.2f} "
        + ", ".join(f"{name} {curve.values[place]:.3f}" for name, curve in curves.items())
        for place, threshold in enumerate(shown)
    ]
    return f"Net benefit: {'; '.join(parts)}."


def _caption(others: Mapping[str, Table]) -> str:
    dashed = "".join(f" Dashed: {name}." for name in others)
    return (
        "True positives per patient, less the false ones weighted by threshold / (1 - threshold); the"
        " threshold is the probability at which a patient would just be referred. Violet: this model, with"
        f" its 95 % band.{dashed} Dotted: refer all. Grey line: refer none. A model is of use where its"
        " curve is the highest."
    )


def learning_curve_figure(curve: LearningCurve) -> Chart:
    """Draw the score against the number of training patients, with the fitted power law and its band."""
    figure, axes = canvas(height=3.1, left=0.62)
    sizes = [point.patients for point in curve.curve]
    low, middle, high = (
        np.array([getattr(point.score, part) for point in curve.curve], dtype=float)
        for part in ("low", "value", "high")
    )
    axes.fill_between(sizes, low, high, color=BAND, alpha=0.3, lw=0)
    axes.plot(sizes, middle, color=ACCENT, lw=1.6, ls=_DASHED)
    for point in curve.points:
        axes.plot([point.patients] * 2, _ends(point.score.low, point.score.high), color=MUTED, lw=1.2)
        axes.plot(point.patients, np.array(point.score.value, dtype=float), "o", color=ACCENT, ms=5.5)
    name = metric_name(curve.metric)
    axes.set(xlabel="Training patients", ylabel=name)
    axes.grid()
    words = "; ".join(f"{point.patients:.0f}: {with_interval(point.score)}" for point in curve.points)
    caption = (
        "Dots: the procedure on parts of each outer fold's training patients, scored on the same held-out"
        " patients, with 95 % intervals. Dashed: an inverse power law, with a 95 % band over held-out"
        " patients; other draws of the training patients would vary more."
    )
    alternative = f"{name} by training patients. {words}."
    return Chart(to_svg(figure, "learning-curve", alternative), "More patients", caption)


def _ends(low: float | None, high: float | None) -> list[float]:
    return [np.nan if end is None else end for end in (low, high)]
