"""A table of the TRIPOD+AI items that a study folder can answer (Collins et al. 2024, BMJ 385:e078378)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mil_toolkit.config.study import OFFICIAL
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import metric_words, with_interval
from mil_toolkit.outcomes.kinds import outcome_of
from mil_toolkit.study.records import ColumnRecord, PatientsRecord, StudyDescription, StudyScores

NOT_STATED = "not stated ([study] section of cohort.toml)"


class Item(NamedTuple):
    """An item of the checklist: its number, its topic, and what the study says about it."""

    number: str
    topic: str
    text: str


def tripod_items(description: StudyDescription, patients: PatientsRecord, scores: StudyScores) -> list[Item]:
    """Return the items in the order of the checklist."""
    return [
        *_design(description, patients),
        *_variables(patients),
        *_methods(description, patients),
        *_results(description, patients, scores),
    ]


def _design(description: StudyDescription, patients: PatientsRecord) -> Iterator[Item]:
    stated = patients.statements
    yield Item("5b", "Dates", (stated and stated.dates) or NOT_STATED)
    yield Item("6a", "Setting", (stated and stated.setting) or NOT_STATED)
    yield Item("6b", "Eligibility", (stated and stated.eligibility) or NOT_STATED)
    yield Item("8a", "Outcome", outcome_of(description.outcome).text.definition(patients.class_names))
    yield Item("8b", "Reference standard", (stated and stated.reference_standard) or NOT_STATED)


def _variables(patients: PatientsRecord) -> Iterator[Item]:
    names = [_column_words(column) for column in patients.columns]
    names += ["the images of a patient"] if any(patient.images for patient in patients.patients) else []
    yield Item("9a", "Predictors", ", ".join(names) or "none")


def _column_words(column: ColumnRecord) -> str:
    details = [part for part in (column.unit, column.transform) if part]
    return f"{column.name} ({', '.join(details)})" if details else column.name


def _methods(description: StudyDescription, patients: PatientsRecord) -> Iterator[Item]:
    config = description.study
    yield Item("10", "Sample size", f"{len(patients.patients)} labelled patients; see the section on use")
    yield Item(
        "11",
        "Missing values",
        "A missing number is replaced by the median of the training patients; a missing category counts as"
        " the average patient. Where training patients lack values too, an indicator is added.",
    )
    weights = outcome_of(description.outcome).text.weights(config.threshold_rule)
    yield Item("13", "Class imbalance", weights)
    fairness = patients.statements and patients.statements.fairness
    yield Item("14", "Fairness", fairness or f"{NOT_STATED}; scores in subgroups are in the section on use")
    yield Item("16", "Training and evaluation", _evaluation(description))


def _evaluation(description: StudyDescription) -> str:
    config = description.study
    if not config.outer_folds:
        return "No patients were held out; no external validation."
    folds = f"{config.outer_folds} outer folds"
    if config.outer_folds == OFFICIAL:
        folds = f"official outer folds, {count_of(config.repeats, 'repeat')}"
    return f"Nested cross-validation ({folds}); no external validation."


def _results(description: StudyDescription, patients: PatientsRecord, scores: StudyScores) -> Iterator[Item]:
    outcome, primary = outcome_of(description.outcome), description.study.primary_metric
    labels = [patient.label for patient in patients.patients]
    strata = outcome.strata(np.array(labels)).tolist()
    counts = [labels.count(number) for number in range(len(patients.class_names))]
    discrimination = outcome.scoring.discrimination
    yield Item("20a", "Flow of participants", flow(patients))
    yield Item("20b", "Outcome in those analysed", outcome.text.analysed(counts, strata))
    yield Item("20b", "Missing values by column", _missing(patients))
    shown = scores.outer or scores.inner
    kind = "held-out patients" if scores.outer else "validation (inner folds), optimistic"
    both = [f"{metric_words(name)} {with_interval(shown[name])}" for name in (primary, discrimination)]
    performance = "; ".join(dict.fromkeys(both))
    yield Item("23a", "Performance", f"primary metric: {performance} ({kind})")
    use = patients.statements and patients.statements.intended_use
    yield Item("27a", "Intended use", use or NOT_STATED)


def flow(patients: PatientsRecord) -> str:
    """Return how many rows the table has, how many were left out and why, and how many were analysed."""
    analysed = len(patients.patients)
    if patients.excluded is None:
        return f"{analysed} analysed, {patients.unlabelled} without a label; other rows are not recorded"
    excluded = sum(patients.excluded.values())
    reasons = ", ".join(f"{count} {word}" for word, count in patients.excluded.items())
    left_out = f"{excluded} excluded ({reasons})" if excluded else "none excluded"
    total = count_of(analysed + patients.unlabelled + excluded, "row")
    return f"{total} in the table: {left_out}, {patients.unlabelled} without a label, {analysed} analysed"


def _missing(patients: PatientsRecord) -> str:
    counts = {
        column.name: sum(patient.metadata[column.name] is None for patient in patients.patients)
        for column in patients.columns
    }
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "no columns"
