"""`verify`: check that the files of a finished study agree with each other, and score it again.

Whoever makes a study folder can make all of its files agree: such a folder is indistinguishable from an
honest one. What is detected is a file that was changed without the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import HeadConfig, active_fields
from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.evaluation.scoring import Scoring
from mil_toolkit.outcomes.kinds import outcome_of
from mil_toolkit.search.space import SearchedInterval
from mil_toolkit.study.description import patients_digest
from mil_toolkit.study.folder import SearchFolder, Study
from mil_toolkit.study.prediction_checks import (
    Expected,
    Target,
    column_problems,
    prediction_columns,
    prediction_problems,
    value_problems,
)
from mil_toolkit.study.records import (
    AblationScores,
    Best,
    HeldOut,
    PatientsRecord,
    SplitsRecord,
    StudyDescription,
    StudyScores,
)
from mil_toolkit.study.score_checks import (
    ablation_problems,
    gain_problems,
    score_problems,
    variant_problems,
)
from mil_toolkit.study.scores import with_model_scores, with_rivals
from mil_toolkit.study.splits import (
    FINAL_NAME,
    official_problems,
    search_name,
    search_paths,
    split_problems,
)
from mil_toolkit.study.tables import ROW_COLUMNS, read_predictions
from mil_toolkit.training.patients import Patients

Targets = Mapping[str, Target]  # by patient
CHANGED = "The study was changed after mil-tune wrote it. Ask for the original, or run mil-tune again."
OTHER_FOLDS = (
    "The official folds of the cohort have changed since mil-tune wrote the study (or splits.json has)."
    " Restore them, or run mil-tune with another --study."
)


@dataclass(frozen=True)
class Outputs:
    """What a search chose and predicted; predictions: of the outer fold, None for the final search."""

    best: Best
    out_of_fold: pd.DataFrame
    predictions: pd.DataFrame | None = None


def verify(study: Study, cohort: Cohort | None = None) -> StudyScores:
    """Check that the files of a finished study agree with each other, and return its scores.

    cohort: the study's own (see `Study.check`); without it, the labels are those of patients.json

    The scores rest on the stored predictions and have the intervals of this version, whatever scores.json
    contains; those of the baselines are computed again only where rivals.csv has their predictions. Raises
    DataError that names every file that does not agree with the others.
    """
    splits, patients, stored = study.read_splits(), study.read_patients(), study.read_scores()
    outputs = _read_outputs(study, splits)
    if patients is not None:
        _refuse({study.patients_path: _patients_problems(study.description, patients)})
    targets = _targets(cohort, patients, outputs, study.outcome.scoring)
    _refuse({study.splits_path: split_problems(splits, study.config, targets, _groups(cohort, patients))})
    if cohort is not None:
        _refuse({study.splits_path: official_problems(splits, study.config, cohort)}, OTHER_FOLDS)
    _refuse(_output_problems(study, splits, outputs, targets))
    scores = _score_again(study, stored, outputs, patients)
    outer = _outer(outputs)
    if outer is not None and exists(study.rivals):
        scores = _score_rivals_again(study, scores, outer, patients)
    _refuse({study.scores_path: [*score_problems(stored, scores), *gain_problems(scores)]})
    return scores


def check_outputs(study: Study, patients: Patients) -> None:
    """Check the choices and predictions of all searches, some of which an earlier command may have made.

    patients: the labelled patients of the study. Raises DataError as `verify` does.
    """
    splits = study.read_splits()
    targets = _by_patient(patients.ids, patients.labels)
    _refuse(_searches_problems(study, splits, _read_outputs(study, splits), targets))


def _refuse(problems: Mapping[Path, Sequence[str]], advice: str = CHANGED) -> None:
    """Raise DataError with the problems of some files and advice, unless there are none."""
    lines = [f"{printable(path)}: {problem}" for path, found in problems.items() for problem in found]
    if lines:
        raise DataError([*lines, advice])


def _read_outputs(study: Study, splits: SplitsRecord) -> dict[str, Outputs]:
    """Read the files of every search; raises DataError that lists all that cannot be read."""
    outputs, problems = {}, []
    for name in splits.searches:
        try:
            outputs[name] = _read_search(study, name)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return outputs


def _read_search(study: Study, name: str) -> Outputs:
    folder = _folder(study, name)
    predictions = None if name == FINAL_NAME else read_predictions(folder.predictions)
    return Outputs(folder.read_best(), read_predictions(folder.out_of_fold), predictions)


def _folder(study: Study, name: str) -> SearchFolder:
    return study.final if name == FINAL_NAME else study.outer_folder(name)


# Patients.


def _patients_problems(description: StudyDescription, patients: PatientsRecord) -> list[str]:
    """Return whether patients.json does not belong to the cohort of config.json."""
    names = outcome_of(description.outcome).class_names
    if len(patients.class_names) != len(names):
        return [f"it names {len(patients.class_names)} classes instead of {len(names)}."]
    if patients.grouped is None or patients_digest(patients) == description.cohort.digest:
        return []  # older versions did not store the groups, which are part of the digest
    return ["its ids, labels, groups or metadata are not those of the cohort in config.json."]


def _targets(
    cohort: Cohort | None, patients: PatientsRecord | None, outputs: Mapping[str, Outputs], scoring: Scoring
) -> Targets:
    """Return the targets of the labelled patients: from the cohort, else as the study stored them."""
    if cohort is not None:
        labelled = cohort.labelled()
        return _by_patient(labelled.patient_ids, labelled.labels)
    if patients is not None:
        return {patient.id: _as_target(patient.label) for patient in patients.patients}
    outer = [output.predictions for output in outputs.values() if output.predictions is not None]
    tables = pd.concat([outputs[FINAL_NAME].out_of_fold, *outer])
    return dict(
        zip(tables["patient_id"], zip(*(tables[name] for name in scoring.targets), strict=True), strict=True)
    )


def _by_patient(patient_ids: Sequence[str], targets: np.ndarray) -> dict[str, Target]:
    return dict(zip(patient_ids, map(_as_target, targets.tolist()), strict=True))


def _as_target(stored: float | list[float]) -> Target:
    """Return the target of a patient from its JSON: a number, or a list of them."""
    return tuple(stored) if isinstance(stored, list) else (stored,)


def _groups(cohort: Cohort | None, patients: PatientsRecord | None) -> dict[str, str] | None:
    """Return the groups of the labelled patients; None where there are none or they are unknown."""
    if cohort is not None:
        labelled = cohort.labelled()
        groups = labelled.groups
        return None if groups is None else dict(zip(labelled.patient_ids, map(str, groups), strict=True))
    if patients is None or not patients.grouped:
        return None
    return {patient.id: str(patient.group) for patient in patients.patients}


# Choices and predictions.


def _output_problems(
    study: Study, splits: SplitsRecord, outputs: Mapping[str, Outputs], targets: Targets
) -> dict[Path, list[str]]:
    """Return what is wrong with the choices and predictions of all searches, by file."""
    problems = _searches_problems(study, splits, outputs, targets)
    outer = _outer(outputs)
    if outer is not None and not any(problems.values()):
        problems[study.final.predictions] = _whole_problems(study, outer)
    return problems


def _searches_problems(
    study: Study, splits: SplitsRecord, outputs: Mapping[str, Outputs], targets: Targets
) -> dict[Path, list[str]]:
    problems: dict[Path, list[str]] = {}
    for path in search_paths(splits, study.config):
        problems |= _search_problems(study, path, splits.searches, outputs, targets)
    return problems


def _search_problems(
    study: Study,
    path: tuple[int, int],
    searches: Mapping[str, HeldOut],
    outputs: Mapping[str, Outputs],
    targets: Targets,
) -> dict[Path, list[str]]:
    name = search_name(path)
    folder, output, held_out = _folder(study, name), outputs[name], searches[name]
    repeat, fold = path
    scoring, constants = study.outcome.scoring, output.best.decision.constants
    inner = {patient: number for number, ids in enumerate(held_out.inner, 1) for patient in ids}
    expected = Expected(scoring, repeat, inner, targets, constants)
    problems = {
        folder.best: list(_best_problems(study.description, output.best)),
        folder.out_of_fold: prediction_problems(output.out_of_fold, expected),
    }
    if output.predictions is not None:
        test = dict.fromkeys(held_out.test, fold)
        expected = Expected(scoring, repeat, test, targets, constants, study.config.members)
        problems[folder.predictions] = prediction_problems(output.predictions, expected)
    return problems


def _best_problems(description: StudyDescription, best: Best) -> Iterator[str]:
    """Yield whether a study of this description cannot have made a choice."""
    if best.number >= description.study.trials:
        yield f"number: there is no trial {best.number} among {description.study.trials}."
    for name, value in active_fields(best.config).items():
        space = description.space.get(name)
        if isinstance(space, SearchedInterval):
            inside = isinstance(value, int | float) and space.low <= value <= space.high
        elif space is None:  # as for a field that the study's version did not have
            inside = value == getattr(HeadConfig(), name)
        else:
            inside = value in space
        if not inside:
            yield f"config.{name}: {value!r} is not one of the values that the study searched (config.json)."


def _whole_problems(study: Study, outer: pd.DataFrame) -> list[str]:
    """Return whether the study's table of predictions is not that of its outer folds."""
    whole = read_predictions(study.final.predictions)
    columns = prediction_columns(study.outcome.scoring)
    problems = list(column_problems(whole, columns))
    if problems:
        return problems
    order = ["repeat", "patient_id"]
    one, other = (table[columns].sort_values(order) for table in (whole, outer))
    if one.to_numpy().tolist() == other.to_numpy().tolist():
        return []
    return ["its rows are not those of the predictions.csv of the outer folds."]


def _outer(outputs: Mapping[str, Outputs]) -> pd.DataFrame | None:
    """Return the predictions of all outer folds; None without outer folds."""
    tables = [output.predictions for output in outputs.values() if output.predictions is not None]
    return pd.concat(tables, ignore_index=True) if tables else None


# The ablation.


def verify_ablation(study: Study, ablation: AblationScores) -> None:
    """Check the scores of an ablation against its tables of predictions.

    Raises DataError where a figure is not that of the predictions, or a variant predicts other patients.
    """
    problems = {study.ablation.scores: list(variant_problems(ablation))}
    _refuse(problems)
    scoring, scores = study.outcome.scoring, {}
    expected = _patients_of(read_predictions(study.final.predictions), scoring)
    for name in ablation.variants:
        path = study.ablation.predictions / f"{name}.csv"
        table = read_predictions(path)
        problems[path] = [
            *column_problems(table, prediction_columns(scoring)),
            *value_problems(table, scoring.values, scoring),
        ] or _other_patients(table, expected, scoring)
        _refuse(problems)
        scores[name] = scores_with_intervals(study.table(table))
    _refuse({study.ablation.scores: ablation_problems(ablation, scores)})


def _patients_of(predictions: pd.DataFrame, scoring: Scoring) -> list[list[float | str]]:
    """Return repeat, fold, patient and target of every prediction, in order."""
    columns = [*ROW_COLUMNS, *scoring.targets]
    rows: list[list[float | str]] = predictions[columns].to_numpy().tolist()
    return sorted(rows, key=str)


def _other_patients(table: pd.DataFrame, expected: list[list[float | str]], scoring: Scoring) -> list[str]:
    decided = scoring.decision is None or table[scoring.decision].isin(scoring.decisions).all()
    if _patients_of(table, scoring) == expected and decided:
        return []
    return ["its rows are not those of the patients in the predictions.csv of the study."]


# Scores.


def _score_again(
    study: Study, stored: StudyScores, outputs: Mapping[str, Outputs], patients: PatientsRecord | None
) -> StudyScores:
    """Return the scores of the predictions, with what cannot be computed from them as stored."""
    final = outputs[FINAL_NAME]
    inner, outer = study.table(final.out_of_fold), _outer(outputs)
    best = final.best
    scores = replace(
        stored,
        epoch=best.epoch,
        passed_over=best.passed_over,
        training=best.training,
        inner=scores_with_intervals(inner),
    )
    if outer is None:
        return scores
    scored = with_model_scores(scores, inner, outer, _bag_sizes(patients))
    return scored if patients is not None else replace(scored, bag_size=stored.bag_size)


def _score_rivals_again(
    study: Study, scores: StudyScores, outer: pd.DataFrame, patients: PatientsRecord | None
) -> StudyScores:
    """Return the scores with those of the baselines' stored predictions."""
    rows = read_predictions(study.rivals)
    scoring = study.outcome.scoring
    _refuse({study.rivals: list(column_problems(rows, [*prediction_columns(scoring), "rival"]))})
    expected = _patients_of(outer, scoring)
    rivals = {str(name): table for name, table in rows.groupby("rival", sort=False)}
    for table in rivals.values():
        problems = list(value_problems(table, scoring.values, scoring))
        _refuse({study.rivals: [*problems, *_other_patients(table, expected, scoring)]})
    tables = {name: study.table(table.drop(columns="rival")) for name, table in rivals.items()}
    sizes = _bag_sizes(patients)
    scored = with_rivals(scores, study.table(outer), sizes, tables)
    known = patients is not None
    return scored if known else replace(scored, bag_size_of_metadata=scores.bag_size_of_metadata)


def _bag_sizes(patients: PatientsRecord | None) -> dict[str, int] | None:
    """Return the number of images of each patient; None where a patient has none, or they are unknown."""
    listed = [] if patients is None else patients.patients
    sizes = {patient.id: patient.images for patient in listed if patient.images is not None}
    return sizes if listed and len(sizes) == len(listed) else None
