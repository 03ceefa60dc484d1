"""`run_canary`: small studies on labels without a meaning, and a test that their outer AUCs lie around 0.5."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import GROUPS, StudyConfig
from mil_toolkit.core.files import TEMPORARY_PREFIX, publish_json, read_json
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.seeds import derive_seeds
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.storage import InMemory
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import plan_searches
from mil_toolkit.study.run import Run
from mil_toolkit.training.patients import Patients

RUNS = 20
LEVEL = 0.01  # of the test: one sound study in a hundred is accused
MOST_FOLDS = 3
MOST_EPOCHS = 20
SHUFFLES = 2_000_000  # in the place of a trial's number: the seeds of the shuffled labels
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canary:
    """What canary.json holds.

    aucs: the outer AUC of each run; mean, deviation: theirs; p_value: of a two-sided one-sample t-test of the mean
    against 0.5, None where all AUCs are the same; passed: whether it is not below `level`
    """

    aucs: Sequence[float]
    mean: float
    deviation: float
    p_value: float | None
    level: float
    passed: bool

    @classmethod
    def of(cls, aucs: Sequence[float]) -> "Canary":
        """The verdict on independent runs."""
        mean, deviation = float(np.mean(aucs)), float(np.std(aucs, ddof=1))
        if np.ptp(aucs) == 0:
            return cls(aucs, mean, deviation, None, LEVEL, mean == 0.5)
        p_value = float(ttest_1samp(aucs, 0.5).pvalue)
        return cls(aucs, mean, deviation, p_value, LEVEL, p_value >= LEVEL)

    def __str__(self) -> str:
        found = (
            f"{len(self.aucs)} runs on shuffled labels: outer AUC {self.mean:.3f}, standard deviation"
            f" {self.deviation:.3f}; two-sided t-test against 0.5: p ="
            f" {'-' if self.p_value is None else f'{self.p_value:.3f}'}, level {self.level}."
        )
        if self.passed:
            return f"Canary passed. {found}"
        return (
            f"CANARY FAILED. {found} Labels without a meaning were predicted, so that something leaks between"
            " patients or the folds are not exchangeable: do not believe this study's scores. Begin with audit.json."
        )


def run_canary(
    cohort: Cohort,
    cache: FeatureCache | None,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    runs: int = RUNS,
) -> Canary:
    """Tune `runs` small studies, each on other shuffled labels of the labelled patients, and judge their AUCs.

    The verdict goes to canary.json in the study folder, whose results are not touched; one that stands there is
    taken. Raises what `tune` raises.
    """
    with exclusive(folder):
        Study.begin(folder, config, cohort, cache)  # refuses a folder of another study
        path = folder / "canary.json"
        if not path.exists():
            publish_json(
                path, asdict(Canary.of(_aucs(cohort.labelled(), cache, folder, config, device, runs)))
            )
        canary = Canary(**read_json(path))
    logger.log(logging.INFO if canary.passed else logging.ERROR, "%s", canary)
    return canary


def small(config: StudyConfig) -> StudyConfig:
    """The study with few trials, folds, members and epochs; what it searches is the same."""
    epochs = tuple(min(each, MOST_EPOCHS) for each in config.epochs)
    outer = config.outer_folds if config.outer_folds == GROUPS else MOST_FOLDS
    return replace(
        config,
        trials=min(config.trials, 2),
        folds=min(config.folds, MOST_FOLDS),
        repeats=1,
        outer_folds=outer,
        members=1,
        settings={**config.settings, "epochs": tuple(dict.fromkeys(epochs))},
    )


def _aucs(
    labelled: Cohort, cache: FeatureCache | None, folder: Path, config: StudyConfig, device: str, runs: int
) -> list[float]:
    patients, aucs = Patients.of(labelled, cache), []
    begun = time.monotonic()
    for number in range(runs):
        seed = derive_seeds(1, config.seed, SHUFFLES, number)[0]
        labels = np.random.default_rng(seed).permutation(labelled.labels)
        shuffled = replace(labelled, labels=labels), replace(patients, labels=labels.astype(np.int64))
        with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as temporary:
            study = Study(Path(temporary), replace(small(config), seed=seed), {})
            aucs.append(_outer_auc(study, *shuffled, device))
        if number == 0:
            seconds = time.monotonic() - begun
            logger.info("Canary: the first of %d runs took %.1f s: about %.0f min in all.", runs, seconds,
                        runs * seconds / 60)  # fmt: skip
    return aucs


def _outer_auc(study: Study, cohort: Cohort, patients: Patients, device: str) -> float:
    """The outer AUC of a small study, by the procedure of `tune` without its final search."""
    outer = plan_searches(cohort, study.config)[0][:-1]
    run = Run(study, patients, outer, InMemory(), device, quiet=True)
    run.work()
    table = Table.of(pd.concat([run.predictions(search) for search in outer]))
    return float(table.scores(METRICS["auc"], np.ones((1, len(table.labels))))[0])
