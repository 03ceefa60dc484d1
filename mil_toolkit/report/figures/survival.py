"""Figures of predicted survival: curves by third of the risk, calibration at the horizon, Brier scores."""

from collections.abc import Iterator, Sequence

import numpy as np

from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.intervals import draw_patients, percentile_interval
from mil_toolkit.evaluation.survival_calibration import ObservedRisk
from mil_toolkit.evaluation.survival_curves import at_risk
from mil_toolkit.evaluation.survival_metrics import grid_of, squared_errors, survival_of
from mil_toolkit.evaluation.table import Table
from mil_toolkit.evaluation.words import number, p_value, with_interval
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import ACCENT, BAND, INK, MUTED, Chart, canvas, shortened, to_svg
from mil_toolkit.report.figures.kaplan_meier import MOST_CURVES, MOST_MARKS, Group, survival_figure
from mil_toolkit.report.survival import Calibration, NullModel, Thirds
from mil_toolkit.study.records import PatientRecord
from mil_toolkit.study.subgroups import Subgroup, subgroups

_DASHED = (0, (2, 2))
RISK_TITLE = "Calibration at the horizon"
_LONGEST_AXIS = 40  # characters


def survival_outcome(contents: Contents) -> Survival:
    """Return the outcome of a study of survival."""
    return Survival.of(contents.study.outcome)


def time_name(contents: Contents) -> str:
    """Return the column of the times, as a label."""
    return name_of_time(survival_outcome(contents))


def name_of_time(outcome: Survival) -> str:
    """Return the column of the times of an outcome, as a label."""
    return shortened(printable(outcome.time or "Time"), _LONGEST_AXIS)


def followed_words(time: float) -> str:
    """Return the last time of follow-up of patients whose risk at the horizon is unknown.

    >>> followed_words(3.0)
    'followed up to 3 only'
    """
    return f"followed up to {time:.4g} only"


def risk_words(risk: ObservedRisk) -> str:
    """Return an observed risk with its interval, or up to when there was follow-up if it is unknown."""
    if risk.followed_to is not None:
        return f"unknown ({followed_words(risk.followed_to)})"
    return f"{number(risk.value)} ({number(risk.low)} to {number(risk.high)})"


def log_rank_words(parts: Thirds) -> str:
    """Return the test that the thirds have the same survival."""
    test, corrected = parts.test, parts.corrected
    if test.statistic is None:
        return "There are no thirds with events to compare by a log-rank test."
    freedom = count_of(test.freedom, "degree of freedom", "degrees of freedom")
    intro = "Log-rank test that the thirds have the same survival over the whole follow-up"
    statistic = f"chi-squared {test.statistic:.2f}, {freedom}"
    if corrected is None:
        return f"{intro}: p {p_value(test.p_value)} ({statistic})."
    return (
        f"{intro}: p {p_value(corrected.p_value)} ({statistic}, halved: taken as it is,"
        f" p {p_value(test.p_value)} would be too small, because cross-validated models learn from each"
        " other's held-out patients)."
    )


def thirds_figure(contents: Contents, parts: Thirds) -> Chart:
    """Draw the survival of a study's patients by third of their predicted risk."""
    kinds = "held-out patients" if contents.nested else "validation patients"
    return thirds_chart(contents.table, parts, survival_outcome(contents), kinds)


def thirds_chart(table: Table, parts: Thirds, outcome: Survival, kinds: str) -> Chart:
    """Draw the survival of patients by third of their predicted risk; kinds: what these patients are."""
    horizon = outcome.by
    groups = [Group(part.name, part.times, part.events) for part in parts.groups]
    figure = survival_figure(groups, name_of_time(outcome), horizon)
    observed = "; ".join(f"{part.name} {risk_words(part.observed)}" for part in parts.groups)
    ends = ", ".join(f"{part.name} {at_risk(part.times, [horizon])[0]}" for part in parts.groups)
    words = f"{log_rank_words(parts)} Observed risk at {horizon:g}: {observed}."
    alternative = (
        f"Kaplan-Meier curves of {kinds} by predicted third. {words} At risk at {horizon:g}: {ends}."
    )
    caption = (
        f"Kaplan-Meier curves of {kinds} by third of the predicted risk"
        f"{'' if table.one_model else ' within their fold'}, with 95 % bands."
        f" {words}{_dependence(table)} Dotted line: the horizon.{_marks(groups)}"
    )
    return Chart(to_svg(figure, "thirds", alternative), "Survival by predicted third", caption, tall=True)


def _dependence(table: Table) -> str:
    """Return that tests and bands do not allow for groups, if there are any."""
    if table.groups is None:
        return ""
    return " Test, bands and intervals take patients as independent, although they have groups."


def _marks(groups: Sequence[Group]) -> str:
    few = any(0 < int((~group.events).sum()) <= MOST_MARKS for group in groups)
    return " Small vertical marks: censored patients." if few else ""


def risk_calibration_figure(contents: Contents, result: Calibration) -> Chart:
    """Draw the calibration of a study's predictions at the horizon."""
    return risk_calibration_chart(contents.table, result, survival_outcome(contents).by)


def risk_calibration_chart(
    table: Table, result: Calibration, horizon: float, name: str = "calibration", title: str = RISK_TITLE
) -> Chart:
    """Draw the observed against the predicted risk at the horizon, in groups of similar risk.

    name: of the figure, unique in the page
    """
    figure, axes = canvas(height=3.1)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=_DASHED)
    known = [group for group in result.groups if group.observed.followed_to is None]
    for group in known:
        axes.plot([group.predicted] * 2, [group.observed.low, group.observed.high], color=ACCENT, lw=1.4)
    predicted, observed = ([group.predicted for group in known], [group.observed.value for group in known])
    axes.plot(predicted, observed, "o", color=ACCENT, ms=5.5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"Predicted risk at {horizon:g}")
    axes.set_ylabel("Observed risk (Kaplan-Meier)")
    axes.grid()
    ratio = "" if result.ratio is None else f" Ratio of the two: {with_interval(result.ratio)}, ideally 1."
    words = (
        f"Of all patients: observed risk {risk_words(result.observed)}, mean predicted risk"
        f" {number(result.predicted)}.{ratio}"
    )
    groups = "; ".join(
        f"predicted {group.predicted:.2f}, observed {_short_words(group.observed)}"
        f" ({count_of(group.patients, 'patient')})"
        for group in result.groups
    )
    caption = (
        f"{words} Dots: groups of patients with similar predicted risks, with 95 % intervals. Dashed"
        f" line: perfect calibration.{_left_out(result)}{_dependence(table)}"
    )
    svg = to_svg(figure, name, f"{title}. {words} In groups: {groups}.")
    return Chart(svg, title, caption)


def _short_words(risk: ObservedRisk) -> str:
    """Return an observed risk without its interval."""
    return f"{risk.value:.2f}" if risk.followed_to is None else risk_words(risk)


def _left_out(result: Calibration) -> str:
    """Return how many groups have no dot, if any."""
    count = sum(group.observed.followed_to is not None for group in result.groups)
    if not count:
        return ""
    return f" {count_of(count, 'group')} without a dot: nobody was followed up to the horizon."


def brier_figure(contents: Contents, null: NullModel) -> Chart:
    """Draw the Brier score of the survival at each time up to the horizon, beside that of the null model."""
    horizon, table = survival_outcome(contents).by, contents.table
    figure, axes = canvas(height=3.1, left=0.66)
    errors = brier_errors(table, horizon)
    times, (low, high) = grid_of(horizon), _band(table, errors)
    axes.fill_between(times, low, high, color=BAND, alpha=0.3, lw=0)
    axes.plot(times, errors.mean(0), color=ACCENT, lw=1.8)
    axes.plot(times, brier_errors(null.table, horizon).mean(0), color=INK, lw=1.3, ls=(0, (3, 1.6)))
    axes.set(xlabel=time_name(contents), ylabel="Brier score", xlim=(0, 1.02 * horizon))
    axes.set_ylim(bottom=0)
    axes.grid()
    name = "integrated_brier"
    words = (
        f"Integrated Brier score up to the horizon {with_interval(contents.own_scores[name])}, of the null"
        f" model {with_interval(null.scores[name])}; difference"
        f" {with_interval(null.differences[name], '+')}, below 0 where the model is better."
    )
    caption = (
        f"{words} Violet: this model, with its 95 % band over patients. Dashed: the null model, which"
        f" predicts {null.words}."
    )
    svg = to_svg(figure, "brier", f"Brier score at each time. {words}")
    return Chart(svg, "Error of the predicted survival", caption)


def brier_errors(table: Table, horizon: float) -> np.ndarray:
    """Return the squared error with IPCW of each patient at each time of the grid, (n, G).

    Mean over the repeats.
    """
    repeats = [squared_errors(survival_of(predicted, horizon)) for predicted in table.repeats()]
    return np.asarray(np.mean(repeats, axis=0))


def _band(table: Table, errors: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the ends of the 95 % band of the mean of errors (n, G) at each time."""
    drawn = draw_patients(table.strata, groups=table.groups) @ errors / len(errors)
    ends = [percentile_interval(scores) for scores in drawn.T]
    return [low for low, _ in ends], [high for _, high in ends]


def survival_data_figures(contents: Contents) -> list[Chart]:
    """Draw the survival of all labelled patients, and that of the levels of each column."""
    if contents.patients is None:
        return []
    everyone = contents.patients.patients
    charts = [_cohort_figure(contents, _group("all", everyone))]
    by_id = {patient.id: patient for patient in everyone}
    units = {column.name: column.shown_unit for column in contents.patients.columns}
    for place, (variable, levels) in enumerate(_variables(subgroups(contents.patients))):
        unit = units.get(variable, "")
        groups = [
            _group(level.level.removesuffix(f" {unit}"), [by_id[name] for name in level.patient_ids])
            for level in levels
        ]
        title = "Images of a patient" if variable == "images" else printable(variable)
        title += f", {printable(unit)}" if unit else ""
        note = _bag_size_words(contents) if variable == "images" else ""
        charts.append(_levels_figure(contents, f"column-{place}", title, groups, note))
    return charts


def _bag_size_words(contents: Contents) -> str:
    """Return the correlation of the predicted risk with the number of images."""
    text = survival_outcome(contents).text
    known = {
        text.stratum(name): value
        for name, value in (contents.scores.bag_size or {}).items()
        if value is not None
    }
    if not known:
        return ""
    words = ", ".join(f"{number(value, '+')} among {name}" for name, value in known.items())
    return f" Spearman correlation of the predicted risk with the number of images: {words}."


def _variables(levels: Sequence[Subgroup]) -> Iterator[tuple[str, list[Subgroup]]]:
    for variable in dict.fromkeys(level.variable for level in levels):
        yield variable, [level for level in levels if level.variable == variable]


def _group(name: str, patients: Sequence[PatientRecord]) -> Group:
    targets = np.array([patient.label for patient in patients], dtype=float)
    return Group(printable(name), targets[:, 0], targets[:, 1] == 1)


def _cohort_figure(contents: Contents, group: Group) -> Chart:
    figure = survival_figure([group], time_name(contents), survival_outcome(contents).by)
    caption = (
        f"Kaplan-Meier curve of {count_of(len(group.times), 'labelled patient')}:"
        f" {count_of(int(group.events.sum()), 'event')}, {int((~group.events).sum())} censored. Band: 95 %."
        f" Dotted line: the horizon.{_marks([group])}"
    )
    return Chart(to_svg(figure, "cohort", caption), "Survival of the cohort", caption)


def _levels_figure(contents: Contents, name: str, title: str, groups: Sequence[Group], note: str) -> Chart:
    """Draw the survival of the patients of each level of a column; of very many, the most frequent ones."""
    order = sorted(range(len(groups)), key=lambda place: -len(groups[place].times))
    drawn = [groups[place] for place in sorted(order[:MOST_CURVES])]
    figure = survival_figure(drawn, time_name(contents), survival_outcome(contents).by)
    words = "; ".join(
        f"{group.name}: {count_of(len(group.times), 'patient')}, {count_of(int(group.events.sum()), 'event')}"
        for group in drawn
    )
    rest = len(groups) - len(drawn)
    others = f" {count_of(rest, 'less frequent level')} not shown." if rest else ""
    caption = f"{words}.{others} Bands: 95 %.{note}"
    svg = to_svg(figure, name, f"Kaplan-Meier curves by {title}. {caption}")
    return Chart(svg, title, caption)
