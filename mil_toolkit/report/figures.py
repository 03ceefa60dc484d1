# Floor 4.1: every figure of the report, one function each.
"""Figures from what a study holds. Each gives its markup, or None where there is nothing to draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy.special import logit

from mil_toolkit.evaluation import Table, reliability
from mil_toolkit.files import shown
from mil_toolkit.hparams import HeadConfig, tunables
from mil_toolkit.metrics import METRICS, Predicted
from mil_toolkit.report.contents import Contents, Walk, labels_of, parameters, values_of
from mil_toolkit.report.curves import GRID, Curve, precision_recall, roc
from mil_toolkit.report.drawing import COLOURS, canvas, to_svg
from mil_toolkit.wording import number, with_interval

optuna.logging.set_verbosity(optuna.logging.ERROR)  # a study in memory is nothing to tell of

INK, MUTED, RULE, ACCENT, BAND = (COLOURS[name] for name in ("ink", "muted", "rule", "accent", "band"))
CLASS_COLOURS = (COLOURS["negative"], COLOURS["positive"])
OBJECTIVE = "objective"  # the column of the values beside the parameters
FEWEST_TRIALS = 10  # that can say what matters
MOST_CATEGORIES = 8
WIDE = 10  # ratio of the largest to the smallest value, above which a logarithmic axis is clearer
CLASS_MARKS = ("o", "^")  # told apart without their colours too
RIVAL_NAMES = {
    "metadata_logistic": "Metadata alone",
    "bag_size": "Number of images alone",
    "mean_logistic": "Mean embedding",
}


@dataclass(frozen=True)
class Figure:
    """A figure with its caption; `title` heads it."""

    svg: Markup
    title: str
    caption: str
    tall: bool = False


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
    axes.set_yticks(range(len(rows)), [_short(row, 26) for row in rows])
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


def roc_figure(contents: Contents) -> Figure:
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
    return Figure(to_svg(figure, "roc", alternative), "ROC", caption)


def precision_recall_figure(contents: Contents) -> Figure:
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
    return Figure(to_svg(figure, "precision-recall", alternative), "Precision and recall", caption)


def _square(x: str, y: str) -> tuple[Any, Axes]:
    figure, axes = canvas(height=3.1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    axes.grid()
    return figure, axes


def _band(axes: Axes, curve: Curve) -> None:
    axes.fill_between(GRID, curve.low, curve.high, step="post", color=BAND, alpha=0.3, lw=0)
    axes.step(GRID, curve.values, where="post", color=ACCENT, lw=1.8)


def reliability_figure(contents: Contents) -> Figure:
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
    return Figure(to_svg(figure, "reliability", f"Reliability curve: {words}."), "Reliability", caption)


def folds_figure(contents: Contents) -> Figure | None:
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
    return Figure(
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


def learning_figures(walks: Sequence[Walk]) -> list[Figure]:
    """Training and validation curves of every search's chosen trial, the chosen epoch marked."""
    named = {"balanced_log_loss": "Balanced log-loss", "balanced_accuracy": "Balanced accuracy", "auc": "AUC"}
    figures = []
    for metric, label in named.items():
        if all(f"validation_{metric}" in walk.epochs for walk in walks):
            svg = learning({"": walks}, f"learning-{metric}", metric, label)
            caption = (
                "Violet: validation, pooled over the inner folds; grey: training. A line a search, the final one bold;"
                " dots: the epochs that were chosen, each from its own search's validation curve."
            )
            figures.append(Figure(svg, label, caption))
    return figures


def learning(groups: Mapping[str, Sequence[Walk]], name: str, metric: str, label: str) -> Markup:
    """Curves over epochs of some groups of searches; the second group is dashed."""
    figure, axes = canvas()
    words = []
    for dash, (group, walks) in zip(("-", (0, (3, 1.6))), groups.items(), strict=False):
        for walk in walks:
            bold = walk.name == "final" or len(walks) == 1
            for part, colour in (("training", MUTED), ("validation", ACCENT)):
                values = walk.epochs[f"{part}_{metric}"]
                axes.plot(
                    walk.epochs["epoch"],
                    values,
                    color=colour,
                    ls=dash,
                    lw=2 if bold else 0.9,
                    alpha=1 if bold else 0.6,
                )
            at = walk.epochs.loc[walk.epochs["epoch"] == walk.epoch, f"validation_{metric}"]
            if len(at):
                axes.plot(walk.epoch, at.iloc[0], "o", color=ACCENT, ms=5 if bold else 3.5, mew=0)
                words.append(f"{group} {walk.name}: epoch {walk.epoch}, validation {at.iloc[0]:.3f}".strip())
    axes.set(xlabel="Epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return to_svg(figure, name, f"{label} after each epoch. Chosen: {'; '.join(words)}.")


def masked_figures(walks: Mapping[str, Sequence[Walk]]) -> list[Figure]:
    """Learning curves with and without the mask."""
    first, second = walks
    figures = []
    for metric, title in (
        ("balanced_log_loss", "Balanced log-loss"),
        ("balanced_accuracy", "Balanced accuracy"),
    ):
        if all(f"validation_{metric}" in walk.epochs for each in walks.values() for walk in each):
            svg = learning(walks, f"masked-{metric}", metric, title)
            caption = f"Solid: {first.lower()}; dashed: {second.lower()}. Violet: validation; grey: training. A line an outer fold."
            figures.append(Figure(svg, title, caption))
    return figures


# The search.


def history_figure(contents: Contents) -> Figure | None:
    """The objective of each trial and the best one so far."""
    trials, objective = contents.trials, contents.study.config.objective
    complete = trials[(trials["state"] == "COMPLETE") & (trials["value"] != "")]
    if complete.empty:
        return None
    numbers, values = complete["number"].astype(int), complete["value"].astype(float)
    best = values.cummax() if METRICS[objective].higher_is_better else values.cummin()
    figure, axes = canvas(left=0.74)
    axes.plot(numbers, values, "o", color=MUTED, ms=4, mew=0, alpha=0.7, label="trial")
    axes.step(numbers, best, where="post", color=ACCENT, label="best so far")
    axes.set(xlabel="Trial of the final search", ylabel=_words(objective))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    chosen = complete[complete["number"].astype(int) == contents.study.best.number]
    place = chosen["number"].astype(int), chosen["value"].astype(float)
    axes.plot(*place, "o", mfc="none", mec=INK, ms=9, mew=1.3, label="chosen")
    axes.legend(loc="best")
    pruned = int((trials["state"] == "PRUNED").sum())
    failed = len(trials) - len(complete) - pruned
    caption = f"{len(complete)} trials were complete, {pruned} given up early, {failed} without a value."
    if contents.study.config.sampler != "grid":
        caption += " The best one replaces the defaults, which are tried first, only where it surpasses them."
    alternative = (
        f"{_words(objective)} of each trial: from {values.iloc[0]:.4f} to the best, {best.iloc[-1]:.4f}."
    )
    return Figure(to_svg(figure, "history", alternative), "Optimisation history", caption)


def importance_figure(contents: Contents) -> Figure | None:
    """How much of the objective's variance each parameter explains, where there are trials enough to say."""
    found = importances(contents)
    if not found:
        return None
    figure, axes = canvas(3.7, 0.6 + 0.27 * len(found), left=1.45, bottom=0.42)
    axes.barh(range(len(found)), list(found.values()), color=ACCENT, height=0.62)
    axes.set_yticks(range(len(found)), list(found))
    axes.set(ylim=(len(found) - 0.4, -0.6), xlim=(0, 1), xlabel="Share of the objective's variance")
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    words = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    caption = (
        "By fANOVA (Hutter et al. 2014) over the complete trials of the final search, for the parameters that all of"
        " them had. A search looks where it hopes to win, so that this is no experiment."
    )
    return Figure(to_svg(figure, "importance", f"Importance: {words}."), "Hyperparameter importance", caption)


def importances(contents: Contents) -> dict[str, float]:
    """Importance of the parameters that every complete trial has; empty with fewer than FEWEST_TRIALS of these."""
    complete = contents.trials[contents.trials["state"] == "COMPLETE"]
    if len(complete) < FEWEST_TRIALS:
        return {}
    objective = contents.study.config.objective
    study = optuna.create_study(direction="maximize" if METRICS[objective].higher_is_better else "minimize")
    found = parameters(complete)
    names = sorted({name for values in found for name in values})
    spaces = {name: _distribution(name, [each[name] for each in found if name in each]) for name in names}
    for row, values in zip(complete["value"].astype(float), found, strict=True):
        own = {name: spaces[name] for name in values}
        study.add_trial(optuna.create_trial(params=values, distributions=own, value=row))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(name: str, values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    """What the values of a parameter may have been drawn from."""
    about, number = tunables(HeadConfig)[name], isinstance(values[0], float | int)
    if about.low is None or about.high is None or not number:
        return optuna.distributions.CategoricalDistribution(sorted(set(values)))
    low, high = min(about.low, *values), max(about.high, *values)
    if isinstance(values[0], float):
        return optuna.distributions.FloatDistribution(low, high, log=about.log)
    return optuna.distributions.IntDistribution(int(low), int(high), log=about.log)


def parallel_figure(contents: Contents) -> Figure | None:
    """Every trial as a line across the parameters, which lie one below the other, so that a phone can show them."""
    trials = _valued(contents)
    names = [name for name in map(str, trials) if name != OBJECTIVE and trials[name].nunique() > 1]
    axes_of = [_Axis.of(name, trials[name]) for name in names]
    if len(trials) < 2 or not axes_of:
        return None
    higher = METRICS[contents.study.config.objective].higher_is_better
    ranked = trials[OBJECTIVE].rank(ascending=not higher, pct=True).to_numpy()  # the best ones lowest
    rows = [_Axis.of(_words(contents.study.config.objective), trials[OBJECTIVE]), *axes_of]
    figure, axes = canvas(3.7, 0.45 + 0.46 * len(rows), left=0.12, bottom=0.12)
    for place, axis in enumerate(rows):
        axes.plot([0, 1], [place, place], color=RULE, lw=1.2)
        axes.text(0, place - 0.13, axis.name, ha="left", va="bottom", color=INK, fontsize=8.5)
        for text, x, align in ((axis.low, 0, "left"), (axis.high, 1, "right")):
            axes.text(x, place + 0.1, text, ha=align, va="top", color=MUTED, fontsize=7.5)
    columns = [trials[OBJECTIVE], *(trials[axis.name] for axis in axes_of)]
    for trial in np.argsort(-ranked, kind="stable"):
        points = [
            (axis.place(column.iloc[trial]), place)
            for place, (axis, column) in enumerate(zip(rows, columns, strict=True))
        ]
        known = [(x, y) for x, y in points if x is not None]
        best = ranked[trial] <= 0.2
        axes.plot(
            *zip(*known, strict=True),
            "-",
            color=ACCENT if best else MUTED,
            alpha=0.85 if best else 0.25,
            lw=1.4 if best else 0.8,
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.6, -0.75))
    axes.set_axis_off()
    violet = "; violet: the best fifth" if (ranked <= 0.2).any() else ""
    caption = f"A line a trial{violet}. A line passes by a parameter that has no effect in its trial."
    alternative = (
        f"Parallel coordinates of {len(trials)} trials over {', '.join(axis.name for axis in rows)}."
    )
    return Figure(to_svg(figure, "parallel", alternative), "Parallel coordinates", caption, tall=True)


@dataclass(frozen=True)
class _Axis:
    """A parameter as an axis from 0 to 1: numbers by size (their logarithm over two decades), words by rank."""

    name: str
    low: str
    high: str
    place: Callable[[Any], float | None]

    @classmethod
    def of(cls, name: str, values: pd.Series) -> "_Axis":
        known = values.dropna()
        if not pd.api.types.is_numeric_dtype(known.infer_objects()) or any(
            isinstance(value, bool) for value in known
        ):
            words = sorted(map(str, known.unique()))
            return cls(
                name,
                words[0],
                words[-1],
                lambda v: None if pd.isna(v) else words.index(str(v)) / max(1, len(words) - 1),
            )
        numbers = known.astype(float)
        low, high = float(numbers.min()), float(numbers.max())
        scale = np.log if low > 0 and high / low > 30 else float
        span = float(scale(high) - scale(low)) or 1.0
        return cls(
            name,
            f"{low:.3g}",
            f"{high:.3g}",
            lambda v: None if pd.isna(v) else float(scale(v) - scale(low)) / span,
        )


def slice_figures(contents: Contents) -> list[Figure]:
    """The objective against each parameter alone."""
    trials, objective = _valued(contents), contents.study.config.objective
    figures: list[Figure] = []
    for name in map(str, trials):
        if name == OBJECTIVE or trials[name].nunique() < 2:
            continue
        known = trials[trials[name].notna()]
        axis = _Axis.of(name, known[name])
        figure, axes = canvas(2.6, 1.9, left=0.76, bottom=0.34)
        places = np.array([axis.place(value) for value in known[name]], dtype=float)
        axes.plot(places, known[OBJECTIVE].to_numpy(float), "o", color=ACCENT, ms=4, alpha=0.6, mew=0)
        axes.set_xticks([0, 1], [axis.low, axis.high])
        first, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")  # a long word in the middle would leave the figure
        last.set_horizontalalignment("right")
        axes.set(xlim=(-0.06, 1.06), ylabel=_words(objective))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
        alternative = f"{_words(objective)} of {len(known)} trials against {name}, {axis.low} to {axis.high}."
        figures.append(Figure(to_svg(figure, f"slice-{len(figures)}", alternative), name, ""))
    return figures


def _valued(contents: Contents) -> pd.DataFrame:
    """The complete trials: OBJECTIVE, then their parameters, missing where without effect."""
    complete = contents.trials[(contents.trials["state"] == "COMPLETE") & (contents.trials["value"] != "")]
    table = pd.DataFrame(parameters(complete), index=complete.index, dtype=object)
    table.insert(0, OBJECTIVE, complete["value"].astype(float))
    return table.rename(columns=str)


# The data.


def data_figures(contents: Contents, class_names: tuple[str, str]) -> list[Figure]:
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


def _classes_figure(labels: np.ndarray, class_names: tuple[str, str]) -> Figure:
    counts = [int((labels == label).sum()) for label in (0, 1)]
    figure, axes = canvas(bottom=0.28)
    axes.bar([0, 1], counts, color=CLASS_COLOURS, width=0.55)
    for place, count in enumerate(counts):
        axes.text(place, count, f"{count}", ha="center", va="bottom")
    axes.set_xticks([0, 1], [_short(name, 22) for name in class_names])
    axes.set(ylabel="Patients", xlim=(-0.6, 1.6))
    axes.tick_params("x", length=0, labelcolor=INK)
    words = ", ".join(f"{count} {name}" for count, name in zip(counts, class_names, strict=True))
    caption = f"{len(labels)} labelled patients: {words}."
    return Figure(to_svg(figure, "classes", caption), "Patients of each class", caption)


def _box_figure(
    values: pd.Series, labels: np.ndarray, class_names: tuple[str, str], name: str, title: str, log: bool
) -> Figure:
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
        _plain_logarithm(axes.yaxis)
    elif (known == known.round()).all():
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xticks([0, 1], [_short(each, 22) for each in class_names])
    axes.set_xlim(-0.6, 1.6)
    axes.tick_params("x", length=0, labelcolor=INK)
    axes.grid(axis="y")
    missing = int(values.isna().sum())
    caption = f"{'; '.join(words)}.{f' Missing for {missing}.' if missing else ''}{' Logarithmic scale.' if log else ''}"
    return Figure(to_svg(figure, name, f"{title} by class. {caption}"), title, caption)


def _category_figure(
    values: pd.Series, labels: np.ndarray, class_names: tuple[str, str], name: str, title: str, log: bool
) -> Figure:
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
    axes.set_yticks(range(len(kept)), [_short(shown(each), 16) for each in kept])
    axes.set(ylim=(len(kept) - 0.45, -0.55), xlim=(0, 1.08), xlabel="Share of the class")
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    caption = f"{'; '.join(words)}."
    return Figure(to_svg(figure, name, f"{title} by class. {caption}"), title, caption)


def _logit_figures(contents: Contents, class_names: tuple[str, str]) -> list[Figure]:
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
        _plain_logarithm(axes.xaxis)
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
    return [Figure(svg, "Logit and number of images", caption)]


# The ablation.


def ablation_figures(ablation: Mapping[str, Any]) -> list[Figure]:
    """What each variant loses or gains against the full model, paired."""
    figures = []
    for metric, label in (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC")):
        differences = {
            name: variant["difference"]["differences"][metric]
            for name, variant in ablation["variants"].items()
            if variant["difference"]
        }
        figure, axes = canvas(3.7, 0.62 + 0.27 * len(differences), left=1.62, bottom=0.42)
        axes.axvline(0, color=MUTED, lw=0.9)
        for place, each in enumerate(differences.values()):
            if each["value"] is None or each["low"] is None:
                continue
            clear = each["low"] > 0 or each["high"] < 0
            colour = ACCENT if clear else MUTED
            axes.plot([each["low"], each["high"]], [place, place], color=colour, lw=2.2)
            axes.plot(each["value"], place, "o" if clear else "s", color=colour, ms=5)
        axes.set_yticks(range(len(differences)), [_middle_out(shown(name), 22) for name in differences])
        axes.set_ylim(len(differences) - 0.4, -0.6)
        axes.tick_params("y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel("Variant minus full model")
        words = "; ".join(f"{name} {with_interval(each, '+')}" for name, each in differences.items())
        caption = "Paired 95 % intervals over patients; violet circles: intervals without zero."
        svg = to_svg(
            figure, f"ablation-{metric}", f"Difference in {label}, variant minus full model: {words}."
        )
        figures.append(Figure(svg, f"Change of {label}", caption))
    return figures


# Helpers.


def _plain_logarithm(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _words(name: str) -> str:
    return "AUC" if name == "auc" else name.replace("_", " ").capitalize()


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _middle_out(text: str, most: int) -> str:
    """Without its middle where it is long: names of features differ at their ends."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"
