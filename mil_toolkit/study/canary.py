"""`run_canary`: run small studies on shuffled labels, and test whether their outer AUCs lie around 0.5."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import GROUPS, StudyConfig
from mil_toolkit.core.files import TEMPORARY_PREFIX
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.records import publish_record, read_record
from mil_toolkit.core.seeds import derive_seed, shuffled_labels_path
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.storage import MemoryStorage, quiet_optuna
from mil_toolkit.study.conclusion import predictions_of
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import plan_searches
from mil_toolkit.study.progress import NoProgress
from mil_toolkit.study.run import run_searches, search_runs
from mil_toolkit.study.tracker import NoTracker
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Patients

RUNS = 20
LEVEL = 0.01  # of the test: one sound procedure in a hundred fails
MOST_TRIALS = 2
MOST_FOLDS = 3
MOST_EPOCHS = 20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canary:
    """The result of the canary (canary.json).

    aucs: the outer AUC of each run; mean, deviation: their mean and standard deviation
    p_value: two-sided one-sample t-test of the mean against 0.5; None if all AUCs are equal
    passed: whether the p-value is not below `level`
    """

    aucs: list[float]
    mean: float
    deviation: float
    p_value: float | None
    level: float
    passed: bool

    @classmethod
    def of(cls, aucs: list[float]) -> "Canary":
        """Test the AUCs of independent runs."""
        mean, deviation = float(np.mean(aucs)), float(np.std(aucs, ddof=1))
        if np.ptp(aucs) == 0:
            return cls(aucs, mean, deviation, None, LEVEL, mean == 0.5)
        p_value = float(ttest_1samp(aucs, 0.5).pvalue)
        return cls(aucs, mean, deviation, p_value, LEVEL, p_value >= LEVEL)

    def __str__(self) -> str:
        p_value = "-" if self.p_value is None else f"{self.p_value:.3f}"
        figures = (
            f"{len(self.aucs)} runs on shuffled labels: outer AUC {self.mean:.3f}, standard deviation"
            f" {self.deviation:.3f}; two-sided t-test against 0.5: p = {p_value}, level {self.level}."
        )
        if self.passed:
            return f"Canary passed. {figures}"
        return (
            f"CANARY FAILED. {figures} The models predicted meaningless labels: information leaks between"
            " patients, or the folds are not exchangeable. Do not trust the scores of this study. Read"
            " audit.json first."
        )


def run_canary(
    cohort: Cohort,
    cache: FeatureCache | None,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    runs: int = RUNS,
) -> Canary:
    """Run `runs` small studies on independently shuffled labels, and test their outer AUCs.

    Publishes canary.json in the study folder and leaves the results of the study as they are; an existing
    canary.json is read instead. Raises the errors of `tune`.
    """
    labelled = cohort.labelled()
    with exclusive(folder):
        study = Study.begin(folder, config, cohort, cache)  # refuses the folder of another study
        if not study.canary.exists():
            aucs = _run_all(study, labelled, Patients.of(labelled, cache), device, runs)
            publish_record(study.canary, Canary.of(aucs))
        canary = read_record(study.canary, Canary)
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
    labels = np.random.default_rng(seed).permutation(labelled.labels)
    cohort = replace(labelled, labels=labels)
    shuffled = replace(patients, labels=labels.astype(np.int64))
    config = replace(small(study.config), seed=seed)
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=study.folder) as temporary:
        run = Study(Path(temporary), config, replace(study.description, study=config))
        return _outer_auc(run, cohort, shuffled, device)


def _outer_auc(study: Study, cohort: Cohort, patients: Patients, device: str) -> float:
    """Return the outer AUC of a small study, by the procedure of `tune` without its final search."""
    outer = plan_searches(cohort, study.config)[0][:-1]
    workspace = Workspace.of(study, patients, device)
    with quiet_optuna():
        run_searches(search_runs(workspace, outer, MemoryStorage(), NoTracker(study)), NoProgress())
    table = Table.of(pd.concat([predictions_of(study, search) for search in outer]))
    return float(table.scores(METRICS["auc"], np.ones((1, len(table.labels))))[0])
