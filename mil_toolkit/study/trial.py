"""One trial of a search: training on the inner folds, pruning, and the scores of its epochs."""

import logging
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from mil_toolkit.core.errors import Diverged
from mil_toolkit.core.seeds import trial_path
from mil_toolkit.search.rounds import Ending
from mil_toolkit.search.trials import NoValue, Pruned, RunningTrial
from mil_toolkit.study.folder import EpochScores, publish_epochs
from mil_toolkit.study.plan import Search
from mil_toolkit.study.tracker import Tracker
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.course import Trial
from mil_toolkit.training.curves import Curves, best_epoch_of
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.procedure import run_trial
from mil_toolkit.training.together import TrialRequest, run_trials

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


class _Evaluation:
    """A trial with its configuration and seed; records how it ended."""

    def __init__(
        self, workspace: Workspace, search: Search, inputs: Inputs, tracker: Tracker, trial: RunningTrial
    ):
        self.workspace, self.search, self.tracker, self.trial = workspace, search, tracker, trial
        self.inputs, self.objective = inputs, workspace.config.objective
        self.config, self.reports = trial.suggest(workspace.space), _EpochReports(trial)
        self.seed = trial_path(workspace.config.seed, search.path, trial.number)

    @property
    def request(self) -> TrialRequest:
        """The trial as one of several to run."""
        return TrialRequest(self.config, self.seed, self.reports)

    def run(self) -> float:
        """Run the trial alone; see `evaluate`."""
        try:
            result = run_trial(self.inputs, self.config, self.objective, self.seed, self.reports)
        except (Pruned, Diverged) as error:
            self.fail(error)
        return self.value_of(result)

    def ending(self, ended: Trial | Exception) -> Ending:
        """Record the end of the trial, and return its value or the exception that `run` raises instead."""
        try:
            return self.fail(ended) if isinstance(ended, Exception) else self.value_of(ended)
        except (Pruned, NoValue) as error:
            return error

    def fail(self, error: Exception) -> NoReturn:
        """Record the end of a trial without a result, and raise what `evaluate` raises."""
        if isinstance(error, Pruned):
            _record_best_epoch(self.trial, self.reports.curves, self.objective)
        if isinstance(error, Pruned | Diverged):
            self._log()
        if isinstance(error, Diverged):
            logger.info("search %s, trial %d diverged.", self.search.name, self.trial.number)
            raise NoValue("diverged") from None
        raise error

    def value_of(self, result: Trial) -> float:
        """Record the result of the trial, and return its value."""
        self._log()
        if not np.isfinite(result.value):
            raise NoValue(f"{self.objective} is undefined")
        self.trial.record_epoch(result.epoch)
        _record_logits(self.trial, result.curves, result.epoch)
        return result.value

    def _log(self) -> None:
        """Publish the scores after each epoch."""
        number, rows = self.trial.number, self.reports.scores()
        publish_epochs(self.workspace.study.search_folder(self.search).epochs(number), rows)
        self.tracker.log_trial(self.search.name, number, self.config, rows)


def evaluate(
    workspace: Workspace, search: Search, inputs: Inputs, tracker: Tracker, trial: RunningTrial
) -> float:
    """Train a trial's configuration on the inner folds and return its objective.

    Publishes the scores after each epoch. Raises Pruned where the search gives the trial up, NoValue where
    training diverges or the objective is undefined.
    """
    return _Evaluation(workspace, search, inputs, tracker, trial).run()


def evaluate_together(
    workspace: Workspace, search: Search, inputs: Inputs, tracker: Tracker, trials: Sequence[RunningTrial]
) -> list[Ending]:
    """Evaluate several trials; return the value of each, or the exception that `evaluate` would raise."""
    evaluations = [_Evaluation(workspace, search, inputs, tracker, trial) for trial in trials]
    ended = run_trials(inputs, [each.request for each in evaluations], workspace.config.objective, Pruned)
    return [each.ending(one) for each, one in zip(evaluations, ended, strict=True)]


def _record_best_epoch(trial: RunningTrial, curves: Curves | None, objective: str) -> None:
    """Record the logits of a pruned trial, which could have become the best one by chance."""
    if curves is not None:
        _record_logits(trial, curves, best_epoch_of(curves, objective))


def _record_logits(trial: RunningTrial, curves: Curves, epoch: int) -> None:
    trial.record_logits(curves.out_of_fold(epoch)[curves.held_out])


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
