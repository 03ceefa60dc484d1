"""`run_canary`: run small studies on shuffled labels, and test whether their scores lie around 0.5."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.run import ALONE, RunConfig
from mil_toolkit.config.study import StudyConfig, for_outcome
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import temporary_folder
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.run_log import log_into, stage
from mil_toolkit.core.seeds import derive_seed, shuffled_labels_path
from mil_toolkit.core.text import printable
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.evaluation.shuffles import draw_shuffles
from mil_toolkit.evaluation.table import Table
from mil_toolkit.search.storage import MemoryStorage, quiet_optuna
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.capacity import process_count
from mil_toolkit.study.conclusion import predictions_of
from mil_toolkit.study.folder import Study
from mil_toolkit.study.jobs import Processes, do_jobs
from mil_toolkit.study.plan import check_outer_folds, plan_searches
from mil_toolkit.study.progress import Progress, no_progress
from mil_toolkit.study.remaining import SearchNote
from mil_toolkit.study.run import run_searches, search_runs
from mil_toolkit.study.tracker import NoTracker
from mil_toolkit.study.views import with_features
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Features, Patients

RUNS = 20
MOST_TRIALS = 2
MOST_FOLDS = 3
MOST_EPOCHS = 20
MOST_SHUFFLES = 20  # of the labels of whole groups, and of patients, until the folds of a run can be scored
logger = logging.getLogger(__name__)


class NoShuffle(DataError):
    """No shuffle of the labels leaves outer folds that can be scored."""


@stage("The canary")
def run_canary(
    cohort: Cohort,
    features: Features,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    runs: int = RUNS,
    how: RunConfig = ALONE,
) -> Canary:
    """Run `runs` small studies on independently shuffled labels, and test their outer scores.

    The score is the AUC or, of other outcomes than two classes, their discrimination (`Scoring`): the macro
    AUC of classes, the concordance of a number, Harrell's C of survival. By chance, all of them are 0.5.

    Where groups are declared, whole groups exchange their labels: the patients of a group stay as similar in
    their labels as they are, so that folds that divided a group would be noticed.

    how: its `workers` are the runs at once

    Publishes canary.json in the study folder and leaves the results of the study as they are; an existing
    canary.json is read instead. Raises the errors of `tune`, and NoShuffle where the folds are fixed
    (official, or of groups) and shuffled labels leave no outer folds to score.
    """
    check_outer_folds(cohort, config)
    config = for_outcome(with_features(config, features), cohort.outcome.kind)
    labelled = cohort.labelled()
    with exclusive(folder) as lock, fixed_threads(config.threads):
        study = Study.begin(folder, config, cohort, features)  # refuses the folder of another study
        log_into(folder)
        canary = study.read_canary()
        if canary is None:
            patients = Patients.of(labelled, features)
            jobs = [_shuffled_run(study, labelled, device, number) for number in range(runs)]
            count = min(runs, _processes(study, patients, device, how, runs))
            with ProgressBar(runs, "run", "canary") as bar:
                processes = Processes(count, config.threads, lock)
                scores = do_jobs(jobs, patients, processes, lambda _: bar.update())
            metric = cohort.outcome.scoring.discrimination
            canary = Canary.of(scores, None if metric == "auc" else metric)
            publish_record(study.canary, canary)
    logger.log(logging.INFO if canary.passed else logging.ERROR, "%s", canary)
    return canary


def small(config: StudyConfig) -> StudyConfig:
    """Return a study with the same search space and few trials, folds, members and epochs."""
    fewer = dict.fromkeys(min(epochs, MOST_EPOCHS) for epochs in config.epochs)
    return replace(
        config,
        trials=min(config.trials, MOST_TRIALS),
        folds=min(config.folds, MOST_FOLDS),
        repeats=1,
        outer_folds=MOST_FOLDS if isinstance(config.outer_folds, int) else config.outer_folds,
        members=1,
        sensitivity_confidence=None,  # fewer patients may not reach it, and no threshold enters an AUC
        settings={**config.settings, "epochs": tuple(fewer)},
    )


@dataclass(frozen=True, eq=False)
class _ShuffledRun:
    """One run of the canary; see `study.jobs.Job`.

    config: of the small study, with the seed of the run; cohort: the labelled patients with shuffled labels
    """

    study: Study
    config: StudyConfig
    cohort: Cohort
    device: str
    number: int

    def do(self, patients: Patients, progress: Progress) -> float:
        """Return the outer score of a small study on shuffled labels, in a temporary folder."""
        shuffled = replace(patients, labels=self.cohort.labels.astype(patients.labels.dtype))
        with temporary_folder(self.study.folder) as temporary:
            run = Study(temporary, self.config, replace(self.study.description, study=self.config))
            auc = _outer_auc(run, self.cohort, shuffled, self.device)
        progress(SearchNote(f"run {self.number}", os.getpid(), ended=True))
        return auc


def _shuffled_run(study: Study, labelled: Cohort, device: str, number: int) -> _ShuffledRun:
    """Return a run with its labels; raises the error of `_shuffled`."""
    seed = derive_seed(*shuffled_labels_path(study.config.seed, number))
    config = replace(small(study.config), seed=seed)
    cohort = _shuffled(labelled, config, np.random.default_rng(seed))
    return _ShuffledRun(study, config, cohort, device, number)


def _processes(study: Study, patients: Patients, device: str, how: RunConfig, runs: int) -> int:
    """Return how many runs to do at once."""
    config = small(study.config)
    run = replace(study, config=config)
    searches = runs * (config.outer_folds if isinstance(config.outer_folds, int) else MOST_FOLDS)
    return process_count(RunConfig(workers=how.workers), Workspace.of(run, patients, device), searches)


def _shuffled(labelled: Cohort, config: StudyConfig, random: np.random.Generator) -> Cohort:
    """Return the patients with shuffled labels: those of whole groups, if these leave outer folds to score.

    Where few groups have patients of both classes, they rarely do; then the patients are permuted. Raises
    NoShuffle if no permutation leaves outer folds to score either.
    """
    problem: str | None = None
    for draw in _draws(labelled, random):
        cohort = replace(labelled, labels=draw)
        problem = _scoring_problem(cohort, config)
        if problem is None:
            return cohort
    folds, attempts = f"folds of {printable(labelled.source)}", f"in {MOST_SHUFFLES} attempts"
    raise NoShuffle(f"No canary: {labelled.outcome.text.no_shuffle(folds, attempts, problem or '')}")


def _draws(labelled: Cohort, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield shuffled labels: of whole groups, where there are groups, and then of the patients."""
    places = np.arange(len(labelled))
    if labelled.groups is not None:
        for _ in range(MOST_SHUFFLES):
            yield labelled.labels[draw_shuffles(places, labelled.groups, random, 1)[0]]
    for _ in range(MOST_SHUFFLES):
        yield labelled.labels[random.permutation(places)]


def _scoring_problem(cohort: Cohort, config: StudyConfig) -> str | None:
    """Return why folds are not possible or no outer fold has held-out patients to score; None if one has."""
    try:
        outer = plan_searches(cohort, config)[0][:-1]
    except DataError as error:
        return str(error).split("\n")[0]
    lacks = [cohort.outcome.lack(cohort.labels[search.test]) for search in outer]
    last = lacks[-1]
    if last is None or None in lacks:
        return None
    return f"the last outer fold holds out {last.what}. {last.need} its held-out patients."


def _outer_auc(study: Study, cohort: Cohort, patients: Patients, device: str) -> float:
    """Return the outer AUC of a small study or, of other outcomes, their discrimination."""
    table = _outer_table(study, cohort, patients, device)
    return table.score(table.scoring.metrics[table.scoring.discrimination])


def _outer_table(study: Study, cohort: Cohort, patients: Patients, device: str) -> Table:
    """Return the outer predictions of a small study, by the procedure of `tune` without its final search."""
    outer = plan_searches(cohort, study.config)[0][:-1]
    workspace = Workspace.of(study, patients, device)
    with quiet_optuna():
        run_searches(search_runs(workspace, outer, MemoryStorage(), NoTracker(study)), no_progress)
    return study.table(pd.concat([predictions_of(study, search) for search in outer]))
