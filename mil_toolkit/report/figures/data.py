"""Figures of the cohort's data."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from scipy.special import logit

from mil_toolkit.core.files import shown
from mil_toolkit.evaluation.words import number
from mil_toolkit.report.contents import Contents, labels_of, values_of
from mil_toolkit.report.drawing import (
    COLOURS,
    INK,
    MUTED,
    RULE,
    Chart,
    canvas,
    plain_logarithm,
    shortened,
    to_svg,
)
from mil_toolkit.report.figures.search import MOST_CATEGORIES, WIDE

CLASS_COLOURS = (COLOURS["negative"], COLOURS["positive"])
CLASS_MARKS = ("o", "^")  # told apart without their colours too


# The data.


def data_figures(contents: Contents, class_names: tuple[str, str]) -> list[Chart]:
    """Patients of each class, every metadata column by class, bag sizes, and the logit against the bag size."""
    patients = contents.patients
    if patients is None:
        return []
    labels = labels_of(patients)
    figures = [_classes_figure(labels, class_names)]
    for place, column in enumerate(patients["columns"]):
        values = pd.Series(values_of(patients, column["name"]), dtype=object)
        unit = column["unit"] or ("years" if column["kind"] == "birth-date" else "")
        name = f"{shown(column['name'])}{', ' + shown(unit) if unit else ''}"
        if values.notna().any():
            draw = _category_figure if column["kind"] == "category" else _box_figure
            log = column["transform"] == "log"
            figures.append(draw(values, labels, class_names, f"column-{place}", name, log))
    sizes = pd.Series([each["images"] for each in patients["patients"]], dtype=object)
    if sizes.notna().all():
        figures.append(_box_figure(sizes, labels, class_names, "bag-size", "Images of a patient", True))
        figures += _logit_figures(contents, class_names)
    return figures


def _classes_figure(labels: np.ndarray, class_names: tuple[str, str]) -> Chart:
    counts = [int((labels == label).sum()) for label in (0, 1)]
    figure, axes = canvas(bottom=0.28)
    axes.bar([0, 1], counts, color=CLASS_COLOURS, width=0.55)
    for place, count in enumerate(counts):
        axes.text(place, count, f"{count}", ha="center", va="bottom")
    axes.set_xticks([0, 1], [shortened(name, 22) for name in class_names])
    axes.set(ylabel="Patients", xlim=(-0.6, 1.6))
    axes.tick_params("x", length=0, labelcolor=INK)
    words = ", ".join(f"{count} {name}" for count, name in zip(counts, class_names, strict=True))
    caption = f"{len(labels)} labelled patients: {words}."
    return Chart(to_svg(figure, "classes", caption), "Patients of each class", caption)


def _box_figure(
    values: pd.Series, labels: np.ndarray, class_names: tuple[str, str], name: str, title: str, log: bool
) -> Chart:
    """Box plots by class over all points; whiskers reach 1.5 interquartile ranges."""
    figure, axes = canvas(bottom=0.28)
    random, words = np.random.default_rng(0), []
    for label, colour in enumerate(CLASS_COLOURS):
        known = values[(labels == label) & values.notna()].astype(float).to_numpy()
        if not len(known):
            continue
        axes.plot(
            label + random.uniform(-0.17, 0.17, len(known)),
            known,
            CLASS_MARKS[label],
            color=colour,
            ms=3.6,
            alpha=0.6,
            mew=0,
        )
        lines = {"color": INK, "linewidth": 1.1}
        axes.boxplot(
            known,
            positions=[label],
            widths=0.48,
            showfliers=False,
            medianprops={**lines, "linewidth": 2},
            boxprops=lines,
            whiskerprops=lines,
            capprops=lines,
        )
        low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
        words.append(f"{class_names[label]}: median {middle:.4g}, quartiles {low:.4g} to {high:.4g}")
    known = values.dropna().astype(float)
    log = log and known.min() > 0 and known.max() > WIDE * known.min()
    if log:
        axes.set_yscale("log")
        plain_logarithm(axes.yaxis)
    elif (known == known.round()).all():
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xticks([0, 1], [shortened(each, 22) for each in class_names])
    axes.set_xlim(-0.6, 1.6)
    axes.tick_params("x", length=0, labelcolor=INK)
    axes.grid(axis="y")
    missing = int(values.isna().sum())
    caption = f"{'; '.join(words)}.{f' Missing for {missing}.' if missing else ''}{' Logarithmic scale.' if log else ''}"
    return Chart(to_svg(figure, name, f"{title} by class. {caption}"), title, caption)


def _category_figure(
    values: pd.Series, labels: np.ndarray, class_names: tuple[str, str], name: str, title: str, log: bool
) -> Chart:
    """Shares of each category within each class."""
    known = values.where(values.notna(), "missing").map(str)
    categories = list(known.value_counts(sort=True).index)
    rest = categories[MOST_CATEGORIES:]
    kept = categories[:MOST_CATEGORIES] + (["others"] if rest else [])
    known = known.where(~known.isin(rest), "others")
    figure, axes = canvas(3.7, max(1.6, 0.75 + 0.42 * len(kept)), left=0.95, bottom=0.42)
    words = []
    for label, colour in enumerate(CLASS_COLOURS):
        of_class = known[labels == label]
        counts = [int((of_class == each).sum()) for each in kept]
        shares = [count / max(1, len(of_class)) for count in counts]
        places = np.arange(len(kept)) + (0.19 if label else -0.19)
        axes.barh(places, shares, 0.34, color=colour)
        for place, share, count in zip(places, shares, counts, strict=True):
            axes.text(share + 0.01, place, f"{count}", va="center", color=MUTED, fontsize=8)
        told = ", ".join(f"{shown(each)} {count}" for each, count in zip(kept, counts, strict=True))
        words.append(f"{class_names[label]}: {told}")
    axes.set_yticks(range(len(kept)), [shortened(shown(each), 16) for each in kept])
    axes.set(ylim=(len(kept) - 0.45, -0.55), xlim=(0, 1.08), xlabel="Share of the class")
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    caption = f"{'; '.join(words)}."
    return Chart(to_svg(figure, name, f"{title} by class. {caption}"), title, caption)


def _logit_figures(contents: Contents, class_names: tuple[str, str]) -> list[Chart]:
    """The logit against the number of images: within a class the one should not follow the other."""
    assert contents.patients is not None
    sizes = {each["id"]: each["images"] for each in contents.patients["patients"]}
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
    if images.max() > WIDE * images.min():
        axes.set_xscale("log")
        plain_logarithm(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="Images of a patient", ylabel="Logit")
    axes.grid(axis="y")
    found = contents.scores["bag_size"] or {}
    named = zip(("negative", "positive"), class_names, strict=True)
    words = ", ".join(f"{number(found[kind], '+')} in {name}" for kind, name in named if kind in found)
    caption = (
        f"Spearman's correlation within each class: {words}. Far from zero, the model may go by how many images were"
        " taken."
        if words
        else "The correlation within each class is computed on outer folds alone."
    )
    svg = to_svg(figure, "logit-bag-size", f"Logit against the number of images. {caption}")
    return [Chart(svg, "Logit and number of images", caption)]
