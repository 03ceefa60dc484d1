"""Figures of the hyperparameter search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.settings import parse_settings
from mil_toolkit.config.tunable import Value, tunables
from mil_toolkit.outcomes.kinds import metric_of
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import ACCENT, INK, MUTED, RULE, Chart, canvas, to_svg
from mil_toolkit.report.names import metric_name

OBJECTIVE = "objective"  # the column of the values beside the parameters
FEWEST_TRIALS = 10  # from which importances are estimated
BEST_SHARE = 0.2  # of the trials that are emphasised
LOG_RATIO = 30  # of the largest to the smallest value of a parameter; above it its axis is logarithmic


def history_figure(contents: Contents) -> Chart | None:
    """Draw the objective of each trial and the best one so far; None without complete trials."""
    trials, objective = contents.trials, contents.study.config.objective
    complete = trials[(trials["state"] == "COMPLETE") & (trials["value"] != "")]
    if complete.empty:
        return None
    numbers, values = complete["number"].astype(int), complete["value"].astype(float)
    best = values.cummax() if metric_of(objective).higher_is_better else values.cummin()
    figure, axes = canvas(left=0.86)
    axes.plot(numbers, values, "o", color=MUTED, ms=4, mew=0, alpha=0.7, label="trial")
    axes.step(numbers, best, where="post", color=ACCENT, label="best so far")
    axes.set(xlabel="Trial of the final search", ylabel=metric_name(objective))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    chosen = complete[complete["number"].astype(int) == contents.best.number]
    place = chosen["number"].astype(int), chosen["value"].astype(float)
    axes.plot(*place, "o", mfc="none", mec=INK, ms=9, mew=1.3, label="chosen")
    axes.legend(loc="best")
    pruned = int((trials["state"] == "PRUNED").sum())
    failed = len(trials) - len(complete) - pruned
    caption = f"{len(complete)} trials completed, {pruned} pruned, {failed} failed."
    if contents.study.config.sampler != "grid":
        caption += (
            " The defaults are tried first. A trial replaces them only if its lead is more than chance"
            " (max-T test)."
        )
    alternative = (
        f"{metric_name(objective)} of each trial: from {values.iloc[0]:.4f} to the best, {best.iloc[-1]:.4f}."
    )
    return Chart(to_svg(figure, "history", alternative), "Optimisation history", caption)


def importance_figure(contents: Contents) -> Chart | None:
    """Draw the share of the objective's variance that each parameter explains; None with too few trials."""
    shares = importances(contents)
    if not shares:
        return None
    figure, axes = canvas(3.7, 0.6 + 0.27 * len(shares), left=1.45, bottom=0.42)
    axes.barh(range(len(shares)), list(shares.values()), color=ACCENT, height=0.62)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1), xlabel="Share of the objective's variance")
    axes.tick_params("y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    words = ", ".join(f"{name} {value:.2f}" for name, value in shares.items())
    caption = (
        "fANOVA (Hutter et al. 2014) over the complete trials of the final search, for the parameters that"
        " all of them have. A search concentrates on promising regions, so this is a rough guide only."
    )
    return Chart(to_svg(figure, "importance", f"Importance: {words}."), "Hyperparameter importance", caption)


def importances(contents: Contents) -> dict[str, float]:
    """Return the importance of each parameter that all complete trials have; empty below FEWEST_TRIALS."""
    complete = contents.trials[contents.trials["state"] == "COMPLETE"]
    if len(complete) < FEWEST_TRIALS:
        return {}
    objective = contents.study.config.objective
    study = optuna.create_study(direction="maximize" if metric_of(objective).higher_is_better else "minimize")
    rows = _parameters(complete)
    names = sorted({name for values in rows for name in values})
    spaces = {name: _distribution(name, [row[name] for row in rows if name in row]) for name in names}
    for value, values in zip(complete["value"].astype(float), rows, strict=True):
        own = {name: spaces[name] for name in values}
        study.add_trial(optuna.create_trial(params=values, distributions=own, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(name: str, values: Sequence[Value]) -> optuna.distributions.BaseDistribution:
    """Return a distribution that the values of a parameter may have been drawn from."""
    field = tunables(HeadConfig)[name]
    numbers = [value for value in values if isinstance(value, float | int)]
    if field.low is None or field.high is None or not numbers:
        return optuna.distributions.CategoricalDistribution(sorted(set(values)))
    low, high = min(field.low, *numbers), max(field.high, *numbers)
    if isinstance(values[0], float):
        return optuna.distributions.FloatDistribution(low, high, log=field.log)
    return optuna.distributions.IntDistribution(int(low), int(high), log=field.log)


def parallel_figure(contents: Contents) -> Chart | None:
    """Draw every trial as a line across its parameters; None where there is nothing to compare.

    The axes lie below each other, so that the figure fits a phone.
    """
    trials = _valued(contents)
    names = [name for name in map(str, trials) if name != OBJECTIVE and trials[name].nunique() > 1]
    if len(trials) < 2 or not names:
        return None
    objective = contents.study.config.objective
    columns = [trials[OBJECTIVE], *(trials[name] for name in names)]
    titles = [metric_name(objective), *names]
    scales = [_Axis.of(title, column) for title, column in zip(titles, columns, strict=True)]
    higher = metric_of(objective).higher_is_better
    ranks = trials[OBJECTIVE].rank(ascending=not higher, pct=True).to_numpy()  # the best trials lowest
    figure, axes = canvas(3.7, 0.45 + 0.46 * len(scales), left=0.12, bottom=0.12)
    _draw_scales(axes, scales)
    for trial in np.argsort(-ranks, kind="stable"):
        places = [scale.place(column.iloc[trial]) for scale, column in zip(scales, columns, strict=True)]
        _draw_trial(axes, places, best=bool(ranks[trial] <= BEST_SHARE))
    axes.set(xlim=(-0.02, 1.02), ylim=(len(scales) - 0.6, -0.75))
    axes.set_axis_off()
    violet = " Violet: the best fifth." if (ranks <= BEST_SHARE).any() else ""
    caption = f"One line for each trial.{violet} A line skips parameters that have no effect in its trial."
    alternative = f"Parallel coordinates of {len(trials)} trials over {', '.join(titles)}."
    return Chart(to_svg(figure, "parallel", alternative), "Parallel coordinates", caption, tall=True)


def _draw_scales(axes: Axes, scales: Sequence["_Axis"]) -> None:
    for place, scale in enumerate(scales):
        axes.plot([0, 1], [place, place], color=RULE, lw=1.2)
        axes.text(0, place - 0.13, scale.name, ha="left", va="bottom", color=INK, fontsize=8.5)
        axes.text(0, place + 0.1, scale.low, ha="left", va="top", color=MUTED, fontsize=7.5)
        axes.text(1, place + 0.1, scale.high, ha="right", va="top", color=MUTED, fontsize=7.5)


def _draw_trial(axes: Axes, places: Sequence[float | None], best: bool) -> None:
    known = [(x, y) for y, x in enumerate(places) if x is not None]
    colour, alpha, width = (ACCENT, 0.85, 1.4) if best else (MUTED, 0.25, 0.8)
    axes.plot(*zip(*known, strict=True), "-", color=colour, alpha=alpha, lw=width)


@dataclass(frozen=True)
class _Axis:
    """A parameter as an axis from 0 to 1: numbers by size or logarithm, words by alphabet."""

    name: str
    low: str
    high: str
    place: Callable[[Value | None], float | None]

    @classmethod
    def of(cls, name: str, values: pd.Series) -> "_Axis":
        """Return the axis that the known values span."""
        known = values.dropna()
        numeric = pd.api.types.is_numeric_dtype(known.infer_objects())
        if not numeric or any(isinstance(value, bool) for value in known):
            return cls._of_words(name, sorted(map(str, known.unique())))
        return cls._of_numbers(name, known.astype(float))

    @classmethod
    def _of_words(cls, name: str, words: list[str]) -> "_Axis":
        def place(value: Value | None) -> float | None:
            return None if pd.isna(value) else words.index(str(value)) / max(1, len(words) - 1)

        return cls(name, words[0], words[-1], place)

    @classmethod
    def _of_numbers(cls, name: str, values: pd.Series) -> "_Axis":
        low, high = float(values.min()), float(values.max())
        scale = np.log if low > 0 and high / low > LOG_RATIO else float
        span = float(scale(high) - scale(low)) or 1.0

        def place(value: Value | None) -> float | None:
            return None if pd.isna(value) else float(scale(value) - scale(low)) / span

        return cls(name, f"{low:.3g}", f"{high:.3g}", place)


def slice_figures(contents: Contents) -> list[Chart]:
    """Draw the objective against each parameter that varies."""
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
        first.set_horizontalalignment("left")  # a long word that is centred would exceed the figure
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
    """Return the complete trials: OBJECTIVE, then their parameters, missing where without effect."""
    complete = contents.trials[(contents.trials["state"] == "COMPLETE") & (contents.trials["value"] != "")]
    table = pd.DataFrame(_parameters(complete), index=complete.index, dtype=object)
    table.insert(0, OBJECTIVE, complete["value"].astype(float))
    return table.rename(columns=str)


def _parameters(trials: pd.DataFrame) -> list[dict[str, Value]]:
    """Return the parameters of each trial as HeadConfig has them, without those that have no effect in it."""
    names = list(trials.columns[3:])
    rows = []
    for texts in trials[names].to_dict("records"):
        settings = parse_settings([f"{name}={text}" for name, text in texts.items() if text != ""])
        rows.append({name: values[0] for name, values in settings.items()})
    return rows
