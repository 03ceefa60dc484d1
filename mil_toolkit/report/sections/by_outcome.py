"""`OUTCOME_SECTIONS`: the sections of the page whose figures and tables depend on the kind of outcome."""

from collections.abc import Callable
from dataclasses import dataclass

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.sections.data import DataSection, data_section
from mil_toolkit.report.sections.scores import ScoresSection, scores_section
from mil_toolkit.report.sections.use import UseSection, use_section


@dataclass(frozen=True)
class OutcomeSections:
    """The functions that draw the sections of a kind of outcome; data: also takes whether to anonymise."""

    scores: Callable[[Contents], ScoresSection]
    use: Callable[[Contents], UseSection]
    data: Callable[[Contents, bool], DataSection]


OUTCOME_SECTIONS: dict[str, OutcomeSections | None] = {
    "binary": OutcomeSections(scores_section, use_section, data_section),
    "survival": None,
}
"""The sections of each kind of outcome; None: no report can be drawn yet."""
