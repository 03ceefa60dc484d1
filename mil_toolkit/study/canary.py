"""`run_canary`: run small studies on shuffled labels, and test whether their outer AUCs lie around 0.5."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import GROUPS, StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import temporary_folder
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.seeds import derive_seed, shuffled_labels_path
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.shuffles import draw_shuffles
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.storage import MemoryStorage, quiet_optuna
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.conclusion import predictions_of
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import plan_searches
from mil_toolkit.study.progress import no_progress
from mil_toolkit.study.run import run_searches, search_runs
from mil_toolkit.study.tracker import NoTracker
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Patients

RUNS = 20
MOST_TRIALS = 2
MOST_FOLDS = 3
MOST_EPOCHS = 20
MOST_SHUFFLES = 20  # of the labels of whole groups, until the folds of a run have both classes
logger = logging.getLogger(__name__)


def run_canary(
    cohort: Cohort,
    cache: FeatureCache | None,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    runs: int = RUNS,
) -> Canary:
    """Run `runs` small studies on independently shuffled labels, and test their outer AUCs.

    Where groups are declared, whole groups exchange their labels: the patients of a group stay as similar in
    their labels as they are, so that folds that divided a group would be noticed.

    Publishes canary.json in the study folder and leaves the results of the study as they are; an existing
    canary.json is read instead. Raises the errors of `tune`.
    """
    labelled = cohort.labelled()
    with exclusive(folder):
        study = Study.begin(folder, config, cohort, cache)  # refuses the folder of another study
        canary = study.read_canary()
        if canary is None:
            canary = Canary.of(_run_all(study, labelled, Patients.of(labelled, cache), device, runs))
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
        outer_folds=config.outer_folds if config.outer_folds == GROUPS else MOST_FOLDS,
        members=1,
        sensitivity_confidence=None,  # fewer patients may not reach it, and no threshold enters an AUC
        settings={**config.settings, "epochs": tuple(fewer)},
    )


def _run_all(study: Study, labelled: Cohort, patients: Patients, device: str, runs: int) -> list[float]:
    """Return the outer AUC of each run."""
    aucs: list[float] = []
    begun = time.monotonic()
    for number in range(runs):
        aucs.append(_run_shuffled(study, labelled, patients, device, number))
        if number == 0:
            seconds = time.monotonic() - begun
            minutes = runs * seconds / 60
            logger.info(
                "Canary: the first of %d runs took %.1f s: about %.0f min in all.", runs, seconds, minutes
            )
    return aucs


def _run_shuffled(study: Study, labelled: Cohort, patients: Patients, device: str, number: int) -> float:
    """Return the outer AUC of a small study on shuffled labels, in a temporary folder."""
    seed = derive_seed(*shuffled_labels_path(study.config.seed, number))
    config = replace(small(study.config), seed=seed)
    cohort = _shuffled(labelled, config, np.random.default_rng(seed))
    shuffled = replace(patients, labels=cohort.labels.astype(np.int64))
    with temporary_folder(study.folder) as temporary:
        run = Study(temporary, config, replace(study.description, study=config))
        return _outer_auc(run, cohort, shuffled, device)


def _shuffled(labelled: Cohort, config: StudyConfig, random: np.random.Generator) -> Cohort:
    """Return the patients with shuffled labels: those of whole groups, if these leave outer folds to score.

    Where few groups have patients of both classes, they rarely do; then the patients are permuted.
    """
    for _ in range(0 if labelled.groups is None else MOST_SHUFFLES):
        labels = draw_shuffles(labelled.labels, labelled.groups, random, 1)[0]
        cohort = replace(labelled, labels=labels)
        if _can_be_scored(cohort, config):
            return cohort
    return replace(labelled, labels=random.permutation(labelled.labels))


def _can_be_scored(cohort: Cohort, config: StudyConfig) -> bool:
    """Return whether all folds are possible and some outer fold has held-out patients of both classes."""
    try:
        outer = plan_searches(cohort, config)[0][:-1]
    except DataError:
        return False
    return any(len(np.unique(cohort.labels[search.test])) > 1 for search in outer)


def _outer_auc(study: Study, cohort: Cohort, patients: Patients, device: str) -> float:
    """Return the outer AUC of a small study, by the procedure of `tune` without its final search."""
    outer = plan_searches(cohort, study.config)[0][:-1]
    workspace = Workspace.of(study, patients, device)
    with quiet_optuna():
        run_searches(search_runs(workspace, outer, MemoryStorage(), NoTracker(study)), no_progress)
    table = Table.of(pd.concat([predictions_of(study, search) for search in outer]))
    return float(table.scores(METRICS["auc"], np.ones((1, len(table.labels))))[0])
