"""The hyperparameter search: its trials and its choice."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from mil_toolkit.config.settings import set_options
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import metric_words, passed_over_words
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.search import (
    history_figure,
    importance_figure,
    parallel_figure,
    slice_figures,
)

_FIGURES: tuple[Callable[[Contents], Chart | None], ...] = (
    history_figure,
    importance_figure,
    parallel_figure,
)


@dataclass(frozen=True)
class SearchSection:
    """The section on the search.

    kept: why the final search kept the defaults, None where it did not
    options: the chosen configuration as options of mil-tune, with all digits
    """

    summary: str
    kept: str | None
    options: str
    charts: list[Chart]
    slices: list[Chart]


def search_section(contents: Contents) -> SearchSection:
    """Return the section on the final search of a study."""
    config, parameters = contents.study.config, contents.best.parameters
    drawn = [draw(contents) for draw in _FIGURES]
    return SearchSection(
        summary=(
            f"The final search, on all labelled patients: {count_of(len(contents.trials), 'trial')}, sampler"
            f" {config.sampler}, pruner {config.pruner}. The value of a trial is its"
            f" {metric_words(config.objective)} in validation (inner folds), which is optimistic."
        ),
        kept=_kept(contents),
        options=shlex.join(set_options({name: (value,) for name, value in parameters.items()})),
        charts=[chart for chart in drawn if chart is not None],
        slices=slice_figures(contents),
    )


def _kept(contents: Contents) -> str | None:
    other = contents.best.passed_over
    if other is None:
        return None
    return passed_over_words(other, contents.study.config.objective)
