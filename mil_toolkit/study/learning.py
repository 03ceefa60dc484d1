"""The learning curve of a study: its procedure with fewer training patients, the same held-out ones."""

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.run import ALONE, RunConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.run_log import log_into, stage
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.evaluation.intervals import Table, draw_patients, percentile_interval, scores_with_intervals
from mil_toolkit.evaluation.power_law import fit_power_law
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.study.capacity import process_count
from mil_toolkit.study.conclusion import predictions_of
from mil_toolkit.study.folder import Study
from mil_toolkit.study.jobs import Processes, SearchJob, do_jobs
from mil_toolkit.study.plan import Search, stored_searches, thin
from mil_toolkit.study.progress import StudyBar
from mil_toolkit.study.records import CurvePoint, LearningCurve, LearningPoint
from mil_toolkit.study.remaining import RemainingTime
from mil_toolkit.study.run import trials_each
from mil_toolkit.study.tables import read_predictions
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Features, Patients

SHARES = (0.4, 0.6, 0.8)  # of the training patients; the study itself is the share of 1
FURTHEST = 3.0  # times the present number of patients, up to which the curve is drawn
_POINTS = 60  # of the curve
_LOSSES_BEST, _SCORES_BEST = 0.0, 1.0
logger = logging.getLogger(__name__)


@stage("The learning curve")
def run_learning_curve(
    cohort: Cohort,
    features: Features,
    folder: Path,
    width: float,
    device: str = "auto",
    how: RunConfig = ALONE,
) -> LearningCurve:
    """Run a finished study's outer folds on fewer of their training patients, and fit a power law.

    The curve is that of the study's primary metric. width: of the 95 % interval for which the number of
    patients is wanted; how: its `workers` are the searches that run at once, over all subsets

    The held-out patients stay the same, and smaller subsets are parts of larger ones, so that the scores are
    paired. Results go to the study folder; a run that was interrupted is resumed. Raises DataError for a
    study without outer folds, or of other data, and where two shares or fewer have patients enough.
    """
    study = Study.open(folder)
    study.check(cohort, features)
    if not study.config.outer_folds:
        raise DataError(f"{folder} has no outer folds: a learning curve needs scores on held-out patients.")
    labelled = cohort.labelled()
    patients = Patients.of(labelled, features)
    full = stored_searches(study.read_splits(), labelled.patient_ids)[:-1]
    plans, left_out = _plan(full, labelled, study)
    with exclusive(folder) as lock, fixed_threads(study.config.threads):
        log_into(folder)
        predictions = _run(study, plans, patients, device, RunConfig(workers=how.workers), lock)
        predictions[1.0] = read_predictions(study.final.predictions)
        sizes = {share: _mean_size(plans.get(share, full)) for share in predictions}
        tables = {share: study.table(rows) for share, rows in predictions.items()}
        curve = _curve(study.config.primary_metric, sizes, tables, width, left_out)
    publish_record(study.learning_curve, curve)
    return curve


def _plan(
    full: Sequence[Search], labelled: Cohort, study: Study
) -> tuple[dict[float, list[Search]], dict[str, str]]:
    """Return the searches by share, and why other shares are left out: too few patients for the folds."""
    plans: dict[float, list[Search]] = {}
    left_out: dict[str, str] = {}
    for share in SHARES:
        try:
            plans[share] = [thin(search, labelled, study.config, share) for search in full]
        except DataError as error:
            left_out[_percent(share)] = error.problems[0]
    if len(plans) < 2:
        reasons = [f"{share} of the training patients: {reason}" for share, reason in left_out.items()]
        raise DataError([*reasons, "A learning curve needs two of these shares. Use fewer inner folds."])
    return plans, left_out


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _run(
    study: Study,
    plans: Mapping[float, Sequence[Search]],
    patients: Patients,
    device: str,
    how: RunConfig,
    lock: int,
) -> dict[float, pd.DataFrame]:
    """Return the outer predictions with each share of the training patients; all searches are independent."""
    labels = {share: f"{_percent(share)} " for share in plans}
    planned = [(share, search) for share, searches in plans.items() for search in searches]
    planned.sort(key=lambda pair: -len(pair[1].patients))
    logger.info("Learning curve: %s of the training patients.", ", ".join(map(_percent, plans)))
    jobs = [
        SearchJob(study.learning(share), [search], how, device, label=labels[share])
        for share, search in planned
    ]
    workspace = Workspace.of(study, patients, device)
    count, trials = process_count(how, workspace, len(jobs)), trials_each(workspace)
    cost = {
        f"{labels[share]}{search.name}": len(search.patients) / len(patients) for share, search in planned
    }
    with contextlib.closing(StudyBar(RemainingTime(study.config, trials, cost, count))) as bar:
        do_jobs(jobs, patients, Processes(count, study.config.threads, lock), bar, bar.show)
    return {
        share: pd.concat([predictions_of(study.learning(share), search) for search in searches])
        for share, searches in plans.items()
    }


def _mean_size(searches: Sequence[Search]) -> float:
    return float(np.mean([len(search.patients) for search in searches]))


def _curve(
    name: str,
    sizes: dict[float, float],
    tables: dict[float, Table],
    width: float,
    left_out: dict[str, str],
) -> LearningCurve:
    """Return the points, and the power law with its band from resamples of the held-out patients."""
    full, shares = tables[1.0], sorted(tables)
    metric = full.scoring.metrics[name]
    scores = {share: scores_with_intervals(tables[share])[name] for share in shares}
    everyone = np.ones((1, len(full.labels)))
    weights = np.concatenate([everyone, draw_patients(full.strata, groups=full.groups)])
    drawn = np.stack([tables[share].scores(metric, weights) for share in shares], axis=1)  # (1 + draws, S)
    at = np.array([sizes[share] for share in shares])
    best = _SCORES_BEST if metric.higher_is_better else _LOSSES_BEST
    law = fit_power_law(at, drawn[np.isfinite(drawn).all(1)], best, metric.higher_is_better)
    grid = np.geomspace(at[0], FURTHEST * at[-1], _POINTS)
    bands = [_estimate(column) for column in law.at(grid).T]
    now_and_twice = law.at(at[-1] * np.array([1.0, 2.0]))
    return LearningCurve(
        metric=name,
        points=[LearningPoint(share, sizes[share], scores[share]) for share in shares],
        curve=[CurvePoint(float(size), band) for size, band in zip(grid, bands, strict=True)],
        doubled=_estimate(now_and_twice[:, 1] - now_and_twice[:, 0]),
        width=width,
        patients_for_width=_patients_for(scores[1.0], len(full.labels), width),
        left_out=left_out,
    )


def _estimate(values: np.ndarray) -> Estimate:
    """Return the first value, which is that of all patients, with the interval of the others."""
    return Estimate(float(values[0]), *percentile_interval(values[1:]))


def _patients_for(score: Estimate, patients: int, width: float) -> int | None:
    """Return the patients for an interval of a width, which shrinks with the root of their number."""
    if score.low is None or score.high is None:
        return None
    return math.ceil(patients * ((score.high - score.low) / width) ** 2)
