"""`OUTCOME_SECTIONS`: the sections of the page whose figures and tables depend on the kind of outcome."""

from collections.abc import Callable
from dataclasses import dataclass

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.sections.class_scores import class_scores_section
from mil_toolkit.report.sections.data import DataSection, class_data_section, data_section
from mil_toolkit.report.sections.number import number_data, number_scores, number_use
from mil_toolkit.report.sections.scores import ScoresSection, scores_section
from mil_toolkit.report.sections.use import UseSection, common_use_section, use_section


@dataclass(frozen=True)
class OutcomeSections:
    """The functions that draw the sections of a kind of outcome; data: also takes whether to anonymise."""

    scores: Callable[[Contents], ScoresSection]
    use: Callable[[Contents], UseSection]
    data: Callable[[Contents, bool], DataSection]


OUTCOME_SECTIONS: dict[str, OutcomeSections | None] = {
    "binary": OutcomeSections(scores_section, use_section, data_section),
    "ordered": OutcomeSections(class_scores_section, common_use_section, class_data_section),
    "classes": OutcomeSections(class_scores_section, common_use_section, class_data_section),
    "number": OutcomeSections(number_scores, number_use, number_data),
    "survival": None,
}
"""The sections of each kind of outcome; None: no report can be drawn yet."""
