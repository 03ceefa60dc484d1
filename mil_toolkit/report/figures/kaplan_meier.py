"""Kaplan-Meier curves of groups of patients, with the numbers at risk under the axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mil_toolkit.evaluation.survival_curves import at_risk, kaplan_meier
from mil_toolkit.report.drawing import ACCENT, COLOURS, INK, MUTED, canvas, shortened


class Style(NamedTuple):
    """Colour and dashes of a curve."""

    colour: str
    dash: str | tuple[float, tuple[float, ...]]


# Curves differ in their dashes, not only in colour.
STYLES = (
    Style(COLOURS["negative"], "-"),
    Style(ACCENT, (0, (4, 1.6))),
    Style(COLOURS["positive"], (0, (6, 1.4, 1.2, 1.4))),
    Style(INK, (0, (1.2, 1.4))),
    Style(MUTED, (0, (8, 2))),
)
MOST_CURVES = len(STYLES)
MOST_MARKS = 200  # censored patients of a curve who are marked
_SHORT_NAME = 8  # characters of names of which three fit side by side
_ROW = 0.18  # inches
_LONGEST_NAME = 18  # characters
_TEXT = {"textcoords": "offset points", "va": "center", "fontsize": 8, "annotation_clip": False}
_LEFT: dict[str, Any] = {**_TEXT, "xycoords": "axes fraction", "ha": "right"}
_BELOW: dict[str, Any] = {**_TEXT, "xycoords": ("data", "axes fraction"), "ha": "center"}


@dataclass(frozen=True)
class Group:
    """Patients whose survival is drawn as a curve: times (n,), events (n,) bool."""

    name: str
    times: np.ndarray
    events: np.ndarray


def survival_figure(groups: Sequence[Group], axis: str, horizon: float | None = None) -> Figure:
    """Draw the curve of each of up to MOST_CURVES groups with its 95 % band, and their numbers at risk.

    axis: label of the times; horizon: time that is marked
    """
    named = len(groups) > 1
    bottom = 0.62 + _ROW * (len(groups) + named)
    longest = max(len(group.name) for group in groups)
    columns = 3 if longest <= _SHORT_NAME else 2
    top = 0.12 + 0.2 * (-(-len(groups) // columns) if named else 0)
    left = 0.36 + 0.062 * min(_LONGEST_NAME, max(longest, _SHORT_NAME)) if named else 0.66
    figure, axes = canvas(height=2.3 + bottom + top, left=left, bottom=bottom, top=top)
    if horizon is not None:
        axes.axvline(horizon, color=MUTED, lw=0.8, ls=(0, (2, 2)))
    for group, style in zip(groups, STYLES, strict=False):
        _draw_curve(axes, group, style)
    last = max(float(group.times.max()) for group in groups)
    axes.set(xlim=(0, 1.02 * last), ylim=(0, 1.02), xlabel=axis, ylabel="Share without the event")
    axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    axes.grid()
    if named:
        corner = (0.02, 1 - top / figure.get_figheight())
        axes.legend(
            loc="lower left", bbox_to_anchor=corner, bbox_transform=figure.transFigure, ncols=columns,
            borderaxespad=0.2, columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip
    _number_at_risk(axes, groups, last)
    return figure


def _draw_curve(axes: Axes, group: Group, style: Style) -> None:
    estimate = kaplan_meier(group.times, group.events)
    times = np.concatenate([[0.0], estimate.curve.times])
    values, low, high = (
        np.concatenate([[1.0], part]) for part in (estimate.curve.values, estimate.low, estimate.high)
    )
    name = shortened(group.name, _LONGEST_NAME)
    axes.fill_between(times, low, high, step="post", color=style.colour, alpha=0.13, lw=0)
    axes.step(times, values, where="post", color=style.colour, ls=style.dash, lw=1.7, label=name)
    censored = group.times[~group.events]
    if len(censored) <= MOST_MARKS:
        axes.plot(censored, estimate.curve.at(censored), "|", color=style.colour, ms=5, mew=0.9)


def _number_at_risk(axes: Axes, groups: Sequence[Group], last: float) -> None:
    """Write the numbers at risk below the ticks, a row for each group."""
    ticks = [float(tick) for tick in axes.get_xticks() if 0 <= tick <= last]
    axes.set_xticks(ticks)
    rows = [(group.name, style.colour, group) for group, style in zip(groups, STYLES, strict=False)]
    if len(groups) > 1:
        axes.annotate("At risk", (0, 0), (-10, _place(0)), **_LEFT, color=MUTED)
    for row, (name, colour, group) in enumerate(rows, len(groups) > 1):
        label = shortened(name, _LONGEST_NAME) if len(groups) > 1 else "At risk"
        axes.annotate(label, (0, 0), (-10, _place(row)), **_LEFT, color=colour)
        for tick, count in zip(ticks, at_risk(group.times, ticks), strict=True):
            axes.annotate(f"{count}", (tick, 0), (0, _place(row)), **_BELOW, color=INK)


def _place(row: int) -> float:
    """Return how far a row of the numbers at risk is from the axis, in points."""
    return -72 * (0.52 + _ROW * row)
