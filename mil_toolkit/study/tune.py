"""`tune`: one search for each outer fold and one on all labelled patients, into a study folder."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import ALONE, RunConfig, StudyConfig
from mil_toolkit.core.devices import pick_device
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.locks import exclusive, shared
from mil_toolkit.core.processes import start_worker
from mil_toolkit.core.reading import report_read_errors
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.text import some
from mil_toolkit.evaluation.decisions import sensitivity_to_reach
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.space import Space
from mil_toolkit.search.storage import DATABASE, DatabaseStorage, postgresql_url, quiet_optuna
from mil_toolkit.study.audit import audit
from mil_toolkit.study.conclusion import score_study
from mil_toolkit.study.folder import Study, is_study_folder
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.progress import NoProgress, TrialBar
from mil_toolkit.study.records import Best, ClassCounts, Finding, StudyScores
from mil_toolkit.study.run import (
    SearchRun,
    recover,
    run_searches,
    search_runs,
    seconds_per_trial,
    trials_each,
)
from mil_toolkit.study.selection import HeldOut
from mil_toolkit.study.supervision import supervise
from mil_toolkit.study.tracker import TRACKERS
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Patients

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`: the final search's choice, the scores, the audit's findings, and what it took.

    trials: of all searches; seconds_per_trial: mean over the trials that this process ran
    """

    study: Study
    best: Best
    scores: StudyScores
    trials: int
    seconds_per_trial: float
    findings: Sequence[Finding]


def tune(
    cohort: Cohort,
    cache: FeatureCache | None,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    how: RunConfig = ALONE,
) -> Tuned:
    """Search the hyperparameters of a cohort's head, and score the procedure by nested cross-validation.

    cache: the cohort's features, None for metadata only. Resumes a study that was interrupted. On a shared
    storage several processes may run the same study, in one folder or, on several machines, in folders of the
    same name.

    Raises DataError for a study of other data or options, a class too small for its folds, or patients
    without embeddings; UsageError where the folder (which may hold nothing but a study), the device, the
    storage or the tracker cannot be used; BusyError where another process works in the folder.
    """
    labelled = cohort.labelled()
    patients = Patients.of(labelled, cache)
    Space.of(config, patients).planned(config.sampler)  # raises before anything is written
    searches, splits = plan_searches(labelled, config)
    _check_positives(config, patients, searches)
    check_run(folder, device, how)
    with exclusive(folder) if how.storage is None else shared(folder, wait=False) as lock, quiet_optuna():
        # The storage comes first: one that cannot be reached must not leave a study behind.
        storage = DatabaseStorage(folder, how.storage)
        study = Study.begin(folder, config, cohort, cache, splits)
        if cohort.groups is not None:
            _log_held_out(splits.held_out)
        findings = _audit(study, cohort, cache)
        study.record_data(cohort, cache)
        with storage.errors_explained():
            workspace = Workspace.of(study, patients, device)
            start = partial(_start_workers, workspace, labelled, cache, searches, device, how, lock)
            return _run(workspace, searches, storage, how, start, findings)


def _run(
    workspace: Workspace,
    searches: Sequence[Search],
    storage: DatabaseStorage,
    how: RunConfig,
    start_workers: Callable[[], list[BaseProcess]],
    findings: Sequence[Finding],
) -> Tuned:
    """Run all searches to their end, first in workers if several processes are wanted; score the study."""
    begun, study = datetime.now(), workspace.study
    tracker = TRACKERS[how.tracker](study)
    runs = search_runs(workspace, searches, storage, tracker, how.timeout)
    progress = TrialBar(trials_each(workspace), len(searches), how.workers, begun)
    recover(runs)
    if how.workers > 1:
        supervise(start_workers(), partial(_report_all, runs, progress))
        recover(runs)
    run_searches(runs, progress)
    progress.close()
    scores = score_study(workspace, searches, tracker, storage.shared)
    seconds = seconds_per_trial(runs, begun)
    return Tuned(study, study.final.read_best(), scores, progress.total, seconds, findings)


def _report_all(runs: Sequence[SearchRun], progress: TrialBar) -> None:
    for run in runs:
        if progress.waits:
            run.report(progress)


def check_run(folder: Path, device: str, how: RunConfig) -> None:
    """Raise UsageError for a folder, device, storage or tracker that cannot be used."""
    _check_folder(folder)
    pick_device(device)
    TRACKERS[how.tracker].check()
    if how.storage is not None:
        postgresql_url(how.storage)


def _check_folder(folder: Path) -> None:
    """Raise UsageError where a folder holds files but no study: they would mix with the study's."""
    with report_read_errors(folder):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if not name.startswith((".", DATABASE))]  # the database's journal too
    if names and not is_study_folder(folder):
        raise UsageError(
            f"{folder} is not a study folder: it holds {some(names)}. Choose a new folder with --study."
        )


def _start_workers(
    workspace: Workspace,
    labelled: Cohort,
    cache: FeatureCache | None,
    searches: Sequence[Search],
    device: str,
    how: RunConfig,
    lock: int,
) -> list[BaseProcess]:
    job = partial(_work, workspace.study, labelled, cache, searches, device, how)
    return [start_worker(job, lock, share) for share in _shares(how.workers)]


def _work(
    study: Study,
    labelled: Cohort,
    cache: FeatureCache | None,
    searches: Sequence[Search],
    device: str,
    how: RunConfig,
) -> None:
    """Run trials and conclude searches in a worker process, as long as there is something to begin."""
    storage = DatabaseStorage(study.folder, how.storage)
    with quiet_optuna(), storage.errors_explained():
        workspace = Workspace.of(study, Patients.of(labelled, cache), device)
        runs = search_runs(workspace, searches, storage, TRACKERS[how.tracker](study), how.timeout)
        run_searches(runs, NoProgress(), wait=False)


def _shares(workers: int) -> list[dict[str, str]]:
    """Return environments that divide the threads among workers, and assign them the cards in turn."""
    threads, cards = max(1, torch.get_num_threads() // workers), max(1, torch.cuda.device_count())
    return [{"OMP_NUM_THREADS": str(threads), "LOCAL_RANK": str(worker % cards)} for worker in range(workers)]


def _check_positives(config: StudyConfig, patients: Patients, searches: Sequence[Search]) -> None:
    """Raise DataError where a search has too few positive patients for the confidence of a sensitivity."""
    problems = []
    for search in searches:
        held_out = HeldOut.of(search, patients)
        try:
            sensitivity_to_reach(config.threshold_rule, held_out.labels, held_out.groups)
        except DataError as error:
            problems.append(f"search {search.name}: {error}")
    if problems:
        raise DataError(problems)


def _log_held_out(counts: Mapping[str, ClassCounts]) -> None:
    """Log the class counts of folds made of whole groups, which stratification can only approximate."""
    folds = (f"{name} {count.positive} + {count.negative}" for name, count in counts.items())
    logger.info(
        "Held-out patients of the outer folds of whole groups (positive + negative): %s.", ", ".join(folds)
    )


def _audit(study: Study, cohort: Cohort, cache: FeatureCache | None) -> list[Finding]:
    """Audit the data and publish the findings; log leaks now, before the hours that a study may take."""
    findings = audit(cohort, cache)
    publish_record(study.audit_path, findings)
    for finding in findings:
        if finding.level == "leak":
            logger.warning("%s %s", finding.text, finding.advice)
    return findings
