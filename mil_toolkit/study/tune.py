"""`tune`: one search for each outer fold and one on all labelled patients, into a study folder."""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import BY_GROUP
from mil_toolkit.config.run import ALONE, RunConfig
from mil_toolkit.config.study import OFFICIAL, StudyConfig, for_outcome
from mil_toolkit.core.devices import pick_device
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import read_json
from mil_toolkit.core.locks import exclusive, shared
from mil_toolkit.core.reading import report_read_errors
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.run_log import log_into, stage
from mil_toolkit.core.text import some
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.search.space import Space
from mil_toolkit.search.storage import DATABASE, DatabaseStorage, postgresql_url, quiet_optuna
from mil_toolkit.study.audit import audit
from mil_toolkit.study.capacity import process_count
from mil_toolkit.study.conclusion import is_concluded, score_study
from mil_toolkit.study.folder import Study, is_study_folder
from mil_toolkit.study.jobs import Job, Processes, RivalsJob, SearchJob, do_jobs
from mil_toolkit.study.plan import (
    Search,
    check_labelled,
    check_outer_folds,
    costs,
    longest_first,
    plan_searches,
)
from mil_toolkit.study.progress import StudyBar
from mil_toolkit.study.records import Best, Finding, StudyScores
from mil_toolkit.study.remaining import RemainingTime, SearchNote
from mil_toolkit.study.run import trials_each
from mil_toolkit.study.selection import HeldOut
from mil_toolkit.study.tracker import TRACKERS
from mil_toolkit.study.views import audited_view, with_features
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.group_checks import check_groups
from mil_toolkit.training.patients import Features, Patients

Rivals = dict[str, pd.DataFrame]  # outer predictions, by baseline
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`: the final search's choice, the scores, the audit's findings, and what it took.

    trials: of all searches; seconds_per_trial: mean over the trials of this command
    """

    study: Study
    best: Best
    scores: StudyScores
    trials: int
    seconds_per_trial: float
    findings: Sequence[Finding]


def tune(
    cohort: Cohort,
    features: Features,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    how: RunConfig = ALONE,
) -> Tuned:
    """Search the hyperparameters of a cohort's head, and score the procedure by nested cross-validation.

    features: the cohort's, None for metadata only; of several caches, the options' `settings` say which are
    used, by default all of them together (see `with_features`). Resumes a study that was interrupted. On a
    shared storage several processes may run the same study, in one folder or, on several machines, in folders
    of the same name.

    Raises DataError for a study of other data or options, a class too small for its folds, or patients
    without embeddings; UsageError where the folder (which may hold nothing but a study), the device, the
    storage, the tracker or the outer folds cannot be used; BusyError where another process works in the
    folder.
    """
    check_outer_folds(cohort, config)
    config = for_outcome(with_features(config, features), cohort.outcome.kind)
    labelled = cohort.labelled()
    check_labelled(labelled)
    patients = Patients.of(labelled, features)
    Space.of(config, patients).planned(config.sampler)  # raises before anything is written
    searches, splits = plan_searches(labelled, config)
    _check_rule(config, patients, searches)
    _check_groups(config, patients)
    check_run(folder, device, config, how)
    with (
        exclusive(folder) if how.storage is None else shared(folder, wait=False) as lock,
        quiet_optuna(),
        fixed_threads(config.threads),
    ):
        # The storage comes first: one that cannot be reached must not leave a study behind.
        storage = DatabaseStorage(folder, how.storage)
        study = Study.begin(folder, config, cohort, features, splits)
        log_into(folder)
        if cohort.groups is not None or config.outer_folds == OFFICIAL:
            _log_held_out(splits.held_out)
        findings = _audit(study, cohort, features)
        study.record_data(cohort, features)
        with storage.errors_explained():
            workspace = Workspace.of(study, patients, device)
            bar, rivals = _run(workspace, searches, device, how, lock)
            scores = score_study(workspace, searches, TRACKERS[how.tracker](study), storage.shared, rivals)
    return Tuned(study, study.final.read_best(), scores, bar.remaining.total, bar.seconds_per_trial, findings)


@stage("The searches")
def _run(
    workspace: Workspace, searches: Sequence[Search], device: str, how: RunConfig, lock: int
) -> tuple[StudyBar, Rivals | None]:
    """Run all searches to their end; return their progress and the predictions of the baselines.

    On a shared storage, one of several processes scores the study: the baselines are left to it.
    """
    study, patients = workspace.study, workspace.patients
    ordered = longest_first(searches)
    left = [search for search in ordered if not is_concluded(study, search)]
    names = {search.name for search in left}
    processes = Processes(process_count(how, workspace, len(left)), study.config.threads, lock)
    bar = StudyBar(
        RemainingTime(study.config, trials_each(workspace), costs(ordered), processes.count, how.timeout)
    )
    with contextlib.closing(bar):
        if how.storage is not None:
            sharing = [SearchJob(study, searches, how, device, wait=False) for _ in range(processes.count)]
            do_jobs(sharing if processes.count > 1 else [], patients, processes, bar, bar.show)
            do_jobs([SearchJob(study, searches, how, device)], patients, replace(processes, count=1), bar)
            return bar, None
        for search in ordered:
            if search.name not in names:
                bar(SearchNote(search.name, os.getpid(), ended=True))
        jobs: list[Job[Rivals | None]] = [SearchJob(study, [search], how, device) for search in left]
        *_, rivals = do_jobs([*jobs, RivalsJob(study, searches[:-1])], patients, processes, bar, bar.show)
    return bar, rivals


def check_run(folder: Path, device: str, config: StudyConfig, how: RunConfig) -> None:
    """Raise UsageError for a folder, device, storage or tracker that cannot be used."""
    if config.together > 1 and how.storage is not None:
        raise UsageError(
            f"--together {config.together} cannot be combined with --storage, where processes share the"
            " trials of a search one by one. Leave one of them out."
        )
    _check_folder(folder)
    pick_device(device)
    TRACKERS[how.tracker].check()
    if how.storage is not None:
        postgresql_url(how.storage)


def recorded_threads(folder: Path) -> int | None:
    """Return the threads of the study in a folder; None where there is none, or its version recorded none."""
    if not is_study_folder(folder):
        return None
    options = read_json(folder / "config.json")["study"]
    threads = options.get("threads") if isinstance(options, dict) else None
    return threads if isinstance(threads, int) else None


def _check_folder(folder: Path) -> None:
    """Raise UsageError where a folder holds files but no study: they would mix with the study's."""
    with report_read_errors(folder):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if not name.startswith((".", DATABASE))]  # the database's journal too
    if names and not is_study_folder(folder):
        raise UsageError(
            f"{folder} is not a study folder: it holds {some(names)}. Choose a new folder with --study."
        )


def _check_rule(config: StudyConfig, patients: Patients, searches: Sequence[Search]) -> None:
    """Raise DataError where a search has too few patients for the decision rule."""
    problems = []
    for search in searches:
        held_out = HeldOut.of(search, patients)
        try:
            held_out.outcome.check_rule(held_out.labels, config.threshold_rule, held_out.groups)
        except DataError as error:
            problems.append(f"search {search.name}: {error}")
    if problems:
        raise DataError(problems)


def _check_groups(config: StudyConfig, patients: Patients) -> None:
    """Raise DataError where searches may standardise embeddings within groups that do not allow it.

    No fold divides a group, so that the groups of a search are those of the study.
    """
    if patients.bags is not None and BY_GROUP in config.settings.get("standardise", ()):
        check_groups(patients.groups)


def _log_held_out(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Log the class counts of official folds and of folds of whole groups, which are hardly stratified."""
    names = " + ".join(next(iter(counts.values()), {}))
    folds = (f"{name} {' + '.join(map(str, count.values()))}" for name, count in counts.items())
    logger.info("Held-out patients of the outer folds (%s): %s.", names, ", ".join(folds))


@stage("The audit of the data")
def _audit(study: Study, cohort: Cohort, features: Features) -> list[Finding]:
    """Audit the data and publish the findings; log leaks now, before the hours that a study may take."""
    findings = audit(cohort, audited_view(features))
    publish_record(study.audit_path, findings)
    for finding in findings:
        if finding.level == "leak":
            logger.warning("%s %s", finding.text, finding.advice)
    return findings
