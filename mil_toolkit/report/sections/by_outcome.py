"""`OUTCOME_SECTIONS`: the sections of the page whose figures and tables depend on the kind of outcome."""

from collections.abc import Callable
from dataclasses import dataclass

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.sections.class_scores import (
    class_scores_section,
    class_use_section,
    ordered_scores_section,
    ordered_use_section,
)
from mil_toolkit.report.sections.data import DataSection, class_data_section, data_section
from mil_toolkit.report.sections.number import number_data, number_facts, number_scores, number_use
from mil_toolkit.report.sections.patient_words import (
    PatientWords,
    words_of_classes,
    words_of_number,
    words_of_survival,
    words_of_two_classes,
)
from mil_toolkit.report.sections.scores import ScoresSection, scores_section
from mil_toolkit.report.sections.survival import (
    survival_data,
    survival_facts,
    survival_scores,
    survival_use,
)
from mil_toolkit.report.sections.use import UseSection, use_section


def _no_facts(contents: Contents) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class OutcomeSections:
    """The functions that draw the sections of a kind of outcome.

    data: also takes whether to anonymise; patients: returns what the gallery says of a patient
    facts: returns further facts of the overview, by name
    fitted: what is fitted on the predictions of the inner folds; rule: what the baselines have in common with
        the model besides the folds
    """

    scores: Callable[[Contents], ScoresSection]
    use: Callable[[Contents], UseSection]
    data: Callable[[Contents, bool], DataSection]
    patients: Callable[[Contents], PatientWords]
    facts: Callable[[Contents], dict[str, str]] = _no_facts
    fitted: str = "calibration"
    rule: str = "calibration"


OUTCOME_SECTIONS = {
    "binary": OutcomeSections(
        scores_section,
        use_section,
        data_section,
        words_of_two_classes,
        fitted="threshold",
        rule="threshold rule",
    ),
    "ordered": OutcomeSections(
        ordered_scores_section,
        ordered_use_section,
        class_data_section,
        words_of_classes,
        rule="decision rule",
    ),
    "classes": OutcomeSections(
        class_scores_section, class_use_section, class_data_section, words_of_classes, rule="decision rule"
    ),
    "number": OutcomeSections(
        number_scores,
        number_use,
        number_data,
        words_of_number,
        number_facts,
        fitted="recalibration",
        rule="recalibration",
    ),
    "survival": OutcomeSections(
        survival_scores, survival_use, survival_data, words_of_survival, survival_facts
    ),
}
"""The sections of each kind of outcome."""
