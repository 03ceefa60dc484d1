"""Figures of the hyperparameter search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.ticker import MaxNLocator

from mil_toolkit.config import HeadConfig, tunables
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.report.contents import Contents, parameters
from mil_toolkit.report.drawing import ACCENT, INK, MUTED, RULE, Chart, canvas, metric_name, to_svg

OBJECTIVE = "objective"  # the column of the values beside the parameters
FEWEST_TRIALS = 10  # that can say what matters
MOST_CATEGORIES = 8
WIDE = 10  # ratio of the largest to the smallest value, above which a logarithmic axis is clearer


# The search.


def history_figure(contents: Contents) -> Chart | None:
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
    axes.set(xlabel="Trial of the final search", ylabel=metric_name(objective))
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
        f"{metric_name(objective)} of each trial: from {values.iloc[0]:.4f} to the best, {best.iloc[-1]:.4f}."
    )
    return Chart(to_svg(figure, "history", alternative), "Optimisation history", caption)


def importance_figure(contents: Contents) -> Chart | None:
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
    return Chart(to_svg(figure, "importance", f"Importance: {words}."), "Hyperparameter importance", caption)


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


def parallel_figure(contents: Contents) -> Chart | None:
    """Every trial as a line across the parameters, which lie one below the other, so that a phone can show them."""
    trials = _valued(contents)
    names = [name for name in map(str, trials) if name != OBJECTIVE and trials[name].nunique() > 1]
    axes_of = [_Axis.of(name, trials[name]) for name in names]
    if len(trials) < 2 or not axes_of:
        return None
    higher = METRICS[contents.study.config.objective].higher_is_better
    ranked = trials[OBJECTIVE].rank(ascending=not higher, pct=True).to_numpy()  # the best ones lowest
    rows = [_Axis.of(metric_name(contents.study.config.objective), trials[OBJECTIVE]), *axes_of]
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
    return Chart(to_svg(figure, "parallel", alternative), "Parallel coordinates", caption, tall=True)


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


def slice_figures(contents: Contents) -> list[Chart]:
    """The objective against each parameter alone."""
    trials, objective = _valued(contents), contents.study.config.objective
    figures: list[Chart] = []
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
        axes.set(xlim=(-0.06, 1.06), ylabel=metric_name(objective))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
        alternative = (
            f"{metric_name(objective)} of {len(known)} trials against {name}, {axis.low} to {axis.high}."
        )
        figures.append(Chart(to_svg(figure, f"slice-{len(figures)}", alternative), name, ""))
    return figures


def _valued(contents: Contents) -> pd.DataFrame:
    """The complete trials: OBJECTIVE, then their parameters, missing where without effect."""
    complete = contents.trials[(contents.trials["state"] == "COMPLETE") & (contents.trials["value"] != "")]
    table = pd.DataFrame(parameters(complete), index=complete.index, dtype=object)
    table.insert(0, OBJECTIVE, complete["value"].astype(float))
    return table.rename(columns=str)
