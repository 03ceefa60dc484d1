"""One trial of a search: training on the inner folds, pruning, and the scores of its epochs."""

import logging

import numpy as np

from mil_toolkit.config import HeadConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.core.seeds import trial_path
from mil_toolkit.search.trials import NoValue, Pruned, RunningTrial
from mil_toolkit.study.folder import EpochScores, publish_epochs
from mil_toolkit.study.plan import Search
from mil_toolkit.study.tracker import Tracker
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.curves import Curves, best_epoch_of
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.procedure import run_trial

logger = logging.getLogger(__name__)


class _EpochReports:
    """Reports every epoch of a trial to the search, and keeps the curves up to the last one."""

    def __init__(self, trial: RunningTrial):
        self.trial = trial
        self.curves: Curves | None = None

    def __call__(self, curves: Curves, value: float) -> None:
        self.curves = curves
        self.trial.report(len(curves.logits), value)

    def scores(self) -> list[EpochScores]:
        """Return the scores after each epoch so far."""
        return [] if self.curves is None else epoch_scores(self.curves)


def evaluate(
    workspace: Workspace, search: Search, inputs: Inputs, tracker: Tracker, trial: RunningTrial
) -> float:
    """Train a trial's configuration on the inner folds and return its objective.

    Publishes the scores after each epoch. Raises Pruned where the search gives the trial up, NoValue where
    training diverges or the objective is undefined.
    """
    config, objective = trial.suggest(workspace.space), workspace.config.objective
    reports, seed = _EpochReports(trial), trial_path(workspace.config.seed, search.path, trial.number)
    try:
        result = run_trial(inputs, config, objective, seed, reports)
    except Pruned:
        _record_best_epoch(trial, reports.curves, objective)
        _log(workspace, search, tracker, trial.number, config, reports.scores())
        raise
    except Diverged:
        _log(workspace, search, tracker, trial.number, config, reports.scores())
        logger.info("search %s, trial %d diverged.", search.name, trial.number)
        raise NoValue("diverged") from None
    _log(workspace, search, tracker, trial.number, config, reports.scores())
    if not np.isfinite(result.value):
        raise NoValue(f"{objective} is undefined")
    trial.record_epoch(result.epoch)
    _record_logits(trial, result.curves, result.epoch)
    return result.value


def _record_best_epoch(trial: RunningTrial, curves: Curves | None, objective: str) -> None:
    """Record the logits of a pruned trial, which could have become the best one by chance."""
    if curves is not None:
        _record_logits(trial, curves, best_epoch_of(curves, objective))


def _record_logits(trial: RunningTrial, curves: Curves, epoch: int) -> None:
    trial.record_logits(curves.out_of_fold(epoch)[curves.held_out])


def _log(
    workspace: Workspace,
    search: Search,
    tracker: Tracker,
    number: int,
    config: HeadConfig,
    rows: list[EpochScores],
) -> None:
    publish_epochs(workspace.study.search_folder(search).epochs(number), rows)
    tracker.log_trial(search.name, number, config, rows)


def epoch_scores(curves: Curves) -> list[EpochScores]:
    """Return the scores after each epoch, on the held-out and on the training patients; see `Curves`.

    Nothing is calibrated; see `Outcome.predicted`. Training scores are those of the epoch's own training
    pass.
    """
    return [_scores_after(curves, epoch) for epoch in range(1, len(curves.logits) + 1)]


def _scores_after(curves: Curves, epoch: int) -> EpochScores:
    parts = {"training": curves.training(epoch), "validation": curves.validation(epoch)}
    scores = {
        f"{part}_{name}": curves.metrics[name].value(predicted)
        for part, predicted in parts.items()
        for name in curves.outcome.scoring.epoch_metrics
    }
    return {"epoch": epoch, **scores}
