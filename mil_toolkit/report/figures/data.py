"""Figures of the cohort's data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.special import logit

from mil_toolkit.core.text import by_name, printable
from mil_toolkit.evaluation.words import number
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import (
    COLOURS,
    INK,
    LOG_RATIO,
    MUTED,
    RULE,
    Chart,
    canvas,
    plain_logarithm,
    shortened,
    to_svg,
)
from mil_toolkit.study.records import ColumnRecord, PatientsRecord

CLASS_COLOURS = (COLOURS["negative"], COLOURS["positive"])
CLASS_MARKS = ("o", "^")  # classes differ in shape, not only in colour
MOST_CATEGORIES = 8
_LONGEST_CLASS, _LONGEST_CATEGORY = 22, 16  # characters of a label


@dataclass(frozen=True)
class Values:
    """One value of each labelled patient, with what a figure needs to name it.

    values: (n,), None where missing; labels: (n,); name: in the ids of the markup; log: whether a logarithmic
    axis is allowed
    """

    values: pd.Series
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str
    title: str
    log: bool = False


def data_figures(contents: Contents) -> list[Chart]:
    """Draw class sizes, all metadata and the bag size by class, and the logit against the bag size."""
    patients, class_names = contents.patients, contents.class_names
    if patients is None:
        return []
    labels = np.array([patient.label for patient in patients.patients])
    charts = [_class_sizes(labels, class_names)]
    for place, column in enumerate(patients.columns):
        values = _column(patients, column, labels, class_names, place)
        if values.values.notna().any():
            charts.append(_shares(values) if column.kind == "category" else _boxes(values))
    sizes = pd.Series([patient.images for patient in patients.patients], dtype=object)
    if sizes.notna().all():
        charts.append(_boxes(Values(sizes, labels, class_names, "bag-size", "Images of a patient", log=True)))
        charts += _logits(contents, patients)
    return charts


def class_size_figures(contents: Contents) -> list[Chart]:
    """Draw the number of patients of each of several classes."""
    if contents.patients is None:
        return []
    labels = np.array([patient.label for patient in contents.patients.patients])
    names = contents.class_names
    counts = [int((labels == number).sum()) for number in range(len(names))]
    figure, axes = canvas(3.7, max(1.6, 0.75 + 0.42 * len(names)), left=0.95, bottom=0.42)
    axes.barh(range(len(names)), counts, 0.55, color=CLASS_COLOURS[0])
    for place, count in enumerate(counts):
        axes.text(count, place, f" {count}", va="center", color=MUTED, fontsize=8)
    axes.set_yticks(range(len(names)), [shortened(name, _LONGEST_CATEGORY) for name in names])
    axes.set(ylim=(len(names) - 0.45, -0.55), xlim=(0, 1.1 * max(counts)), xlabel="Patients")
    axes.tick_params("y", length=0, labelcolor=INK)
    words = by_name(names, counts)
    caption = f"{len(labels)} labelled patients: {words}."
    return [Chart(to_svg(figure, "classes", caption), "Patients of each class", caption)]


def _column(
    patients: PatientsRecord,
    column: ColumnRecord,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    place: int,
) -> Values:
    values = pd.Series([patient.metadata[column.name] for patient in patients.patients], dtype=object)
    unit = column.shown_unit
    title = printable(column.name) + (f", {printable(unit)}" if unit else "")
    return Values(values, labels, class_names, f"column-{place}", title, column.transform == "log")


def _class_sizes(labels: np.ndarray, class_names: tuple[str, ...]) -> Chart:
    counts = [int((labels == label).sum()) for label in (0, 1)]
    figure, axes = canvas(bottom=0.28)
    axes.bar([0, 1], counts, color=CLASS_COLOURS, width=0.55)
    for place, count in enumerate(counts):
        axes.text(place, count, f"{count}", ha="center", va="bottom")
    _name_classes(axes, class_names)
    axes.set_ylabel("Patients")
    words = ", ".join(f"{count} {name}" for count, name in zip(counts, class_names, strict=True))
    caption = f"{len(labels)} labelled patients: {words}."
    return Chart(to_svg(figure, "classes", caption), "Patients of each class", caption)


def _name_classes(axes: Axes, class_names: tuple[str, ...]) -> None:
    axes.set_xticks([0, 1], [shortened(name, _LONGEST_CLASS) for name in class_names])
    axes.set_xlim(-0.6, 1.6)
    axes.tick_params("x", length=0, labelcolor=INK)


def _boxes(column: Values) -> Chart:
    """Draw box plots by class over all points; whiskers reach 1.5 interquartile ranges."""
    figure, axes = canvas(bottom=0.28)
    random, words = np.random.default_rng(0), []
    for label, class_name in enumerate(column.class_names):
        known = _known(column.values[column.labels == label])
        if len(known):
            _draw_box(axes, label, known, random)
            low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
            words.append(f"{class_name}: median {middle:.4g}, quartiles {low:.4g} to {high:.4g}")
    known = _known(column.values)
    log = column.log and _is_wide(known)
    if log:
        axes.set_yscale("log")
        plain_logarithm(axes.yaxis)
    elif (known == known.round()).all():
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    _name_classes(axes, column.class_names)
    axes.grid(axis="y")
    missing = int(column.values.isna().sum())
    caption = f"{'; '.join(words)}."
    caption += f" Missing for {missing}." if missing else ""
    caption += " Logarithmic scale." if log else ""
    svg = to_svg(figure, column.name, f"{column.title} by class. {caption}")
    return Chart(svg, column.title, caption)


def _known(values: pd.Series) -> np.ndarray:
    return values.dropna().astype(float).to_numpy()


def _draw_box(axes: Axes, label: int, values: np.ndarray, random: np.random.Generator) -> None:
    places = label + random.uniform(-0.17, 0.17, len(values))
    axes.plot(places, values, CLASS_MARKS[label], color=CLASS_COLOURS[label], ms=3.6, alpha=0.6, mew=0)
    lines: dict[str, Any] = {"color": INK, "linewidth": 1.1}
    axes.boxplot(
        values,
        positions=[label],
        widths=0.48,
        showfliers=False,
        medianprops={**lines, "linewidth": 2},
        boxprops=lines,
        whiskerprops=lines,
        capprops=lines,
    )


def _is_wide(values: np.ndarray) -> bool:
    """Whether positive values span such a range that a logarithmic axis is clearer."""
    return bool(values.min() > 0 and values.max() > LOG_RATIO * values.min())


def _shares(column: Values) -> Chart:
    """Draw the share of each category within each class; rare categories are drawn as one."""
    values, kept = _frequent(column.values)
    figure, axes = canvas(3.7, max(1.6, 0.75 + 0.42 * len(kept)), left=0.95, bottom=0.42)
    words = []
    for label, class_name in enumerate(column.class_names):
        of_class = values[column.labels == label]
        counts = [int((of_class == category).sum()) for category in kept]
        _draw_shares(axes, label, counts, len(of_class))
        listed = ", ".join(f"{printable(name)} {count}" for name, count in zip(kept, counts, strict=True))
        words.append(f"{class_name}: {listed}")
    axes.set_yticks(range(len(kept)), [shortened(printable(name), _LONGEST_CATEGORY) for name in kept])
    axes.set(ylim=(len(kept) - 0.45, -0.55), xlim=(0, 1.08), xlabel="Share of the class")
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    caption = f"{'; '.join(words)}."
    svg = to_svg(figure, column.name, f"{column.title} by class. {caption}")
    return Chart(svg, column.title, caption)


def _frequent(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Return the values as text with rare categories as "others", and the categories, most frequent first."""
    text = values.where(values.notna(), "missing").map(str)
    categories = list(text.value_counts(sort=True).index)
    rare = categories[MOST_CATEGORIES:]
    kept = categories[:MOST_CATEGORIES] + (["others"] if rare else [])
    return text.where(~text.isin(rare), "others"), kept


def _draw_shares(axes: Axes, label: int, counts: Sequence[int], patients: int) -> None:
    shares = [count / max(1, patients) for count in counts]
    places = np.arange(len(counts)) + (0.19 if label else -0.19)
    axes.barh(places, shares, 0.34, color=CLASS_COLOURS[label])
    for place, share, count in zip(places, shares, counts, strict=True):
        axes.text(share + 0.01, place, f"{count}", va="center", color=MUTED, fontsize=8)


def _logits(contents: Contents, patients: PatientsRecord) -> list[Chart]:
    """Draw the logit against the number of images; within a class, they should not be correlated."""
    sizes = {patient.id: patient.images for patient in patients.patients}
    table = contents.table
    if not all(patient in sizes for patient in table.patient_ids):
        return []
    images = np.array([sizes[patient] for patient in table.patient_ids], dtype=float)
    logits = logit(np.clip(table.probabilities, 1e-6, 1 - 1e-6)).mean(0)
    figure, axes = canvas(left=0.8)
    axes.axhline(0, color=RULE, lw=1)
    for label, colour in enumerate(CLASS_COLOURS):
        chosen = table.labels == label
        axes.plot(images[chosen], logits[chosen], CLASS_MARKS[label], color=colour, ms=4.2, alpha=0.75, mew=0)
    if _is_wide(images):
        axes.set_xscale("log")
        plain_logarithm(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="Images of a patient", ylabel="Logit")
    axes.grid(axis="y")
    caption = _correlation_words(contents)
    svg = to_svg(figure, "logit-bag-size", f"Logit against the number of images. {caption}")
    return [Chart(svg, "Logit and number of images", caption)]


def _correlation_words(contents: Contents) -> str:
    correlations = contents.scores.bag_size or {}
    named = zip(("negative", "positive"), contents.class_names, strict=True)
    words = [f"{number(correlations[kind], '+')} in {name}" for kind, name in named if kind in correlations]
    if not words:
        return "The correlation within each class is computed on outer folds only."
    return (
        f"Spearman correlation within each class: {', '.join(words)}. Far from zero, the model may rely on"
        " the number of images."
    )
