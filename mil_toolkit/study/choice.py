"""The choice of a search: its best trial, or the defaults where that trial is not clearly better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.seeds import members_path
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.records import PassedOver
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.search.trials import FinishedTrial
from mil_toolkit.study.plan import Search
from mil_toolkit.study.records import Best
from mil_toolkit.study.selection import HeldOut, best_or_defaults
from mil_toolkit.study.tables import attention_table, prediction_table, publish_table
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.curves import Curves, decide
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.procedure import cross_fit_members


@dataclass(frozen=True)
class Candidate:
    """The chosen trial, its configuration, and the configuration's curves with all members."""

    trial: FinishedTrial
    config: HeadConfig
    curves: Curves


def choose(
    workspace: Workspace,
    search: Search,
    inputs: Inputs,
    trials: Sequence[FinishedTrial],
    best: FinishedTrial | None,
) -> None:
    """Choose a search's configuration, calibrate it, and publish the choice and its out-of-fold predictions.

    trials: those that count, the defaults first; best: the complete one with the best value. Raises DataError
    where every trial diverged.
    """
    if best is None:
        raise DataError(f"search {search.name}: every trial diverged. Use smaller learning rates.")
    config, folder = workspace.config, workspace.study.search_folder(search)
    trial, passed_over = best, None
    if config.sampler != "grid" and trials[0].complete:
        held_out = HeldOut.of(search, workspace.patients)
        trial, passed_over = best_or_defaults(trials, best, config.objective, held_out)
    chosen = _retrained(workspace, search, inputs, trial)
    decision = decide(chosen.curves, config.threshold_rule)
    publish_table(folder.out_of_fold, _out_of_fold(workspace, search, chosen.curves, decision))
    if not config.outer_folds:
        patients, attention = workspace.patients.take(search.patients), chosen.curves.attention
        table = attention_table(patients, attention, patients.outcome.class_names)
        if table is not None:
            publish_table(folder.attention, table.dropna())
    publish_record(folder.best, _record(chosen, decision, passed_over))


def _retrained(workspace: Workspace, search: Search, inputs: Inputs, trial: FinishedTrial) -> Candidate:
    """Train a trial's configuration on the inner folds again, with all members."""
    assert trial.epoch is not None  # the trial is complete
    config = workspace.space.config_of(trial.parameters)
    seed = members_path(workspace.config.seed, search.path)
    curves = cross_fit_members(inputs, config, trial.epoch, workspace.config.members, seed)
    return Candidate(trial, config, curves)


def _record(chosen: Candidate, decision: DecisionRule, passed_over: PassedOver | None) -> Best:
    trial = chosen.trial
    assert trial.epoch is not None and trial.value is not None  # the trial is complete
    training = _training_scores(chosen.curves, decision)
    return Best(
        trial.number,
        chosen.config,
        trial.epoch,
        trial.value,
        decision,
        training,
        trial.parameters,
        passed_over,
    )


def _training_scores(curves: Curves, decision: DecisionRule) -> dict[str, float | None]:
    labels, logits, members = curves.training_logits(1)
    predicted = Predicted(labels, *decision.predict(logits), members)
    return {name: _finite(metric.value(predicted)) for name, metric in curves.metrics.items()}


def _out_of_fold(
    workspace: Workspace, search: Search, curves: Curves, decision: DecisionRule
) -> pd.DataFrame:
    kept = curves.held_out
    logits = curves.out_of_fold(1)[kept]
    table = prediction_table(search, search.patients[kept], workspace.patients, decision.predict(logits))
    return table.assign(fold=curves.held_by[kept] + 1)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
