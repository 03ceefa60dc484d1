"""Everything that relies on Optuna's internals; a test holds it to the installed version.

Optuna offers no public way to do these things. The package therefore requires `optuna<6`.
"""

import copy
from collections.abc import Container, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

SLOT = "number"  # user attribute of a trial: its slot


def record_heartbeat(storage: optuna.storages.BaseStorage, trial: FrozenTrial) -> None:
    """Record a first heartbeat for a waiting trial: without one, it never goes stale if its process dies."""
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.record_heartbeat(trial._trial_id)


def enqueued_parameters(trial: FrozenTrial) -> Mapping[str, object]:
    """Return the hyperparameters that an enqueued trial has to take; raises TypeError for anything else."""
    parameters = trial.system_attrs.get("fixed_params", {})
    if not isinstance(parameters, dict):
        raise TypeError("fixed_params are not an object")
    return parameters


def is_already_finished(error: BaseException) -> bool:
    """Return whether Optuna refused to finish a trial because another process has already finished it."""
    return str(error).startswith("Cannot tell a")


def original_error(error: Exception) -> BaseException:
    """Return the storage's own error where Optuna fails while handling it; otherwise the error itself.

    `Study.optimize` raises UnboundLocalError, or AssertionError("Should not reach."), after the storage
    failed to record the end of a trial.
    """
    hidden = isinstance(error, UnboundLocalError) or str(error) == "Should not reach."
    return error.__context__ if hidden and error.__context__ else error


class SlotHyperband(optuna.pruners.HyperbandPruner):
    """Hyperband that assigns trials to brackets by slot and ignores failed trials.

    Optuna assigns them by trial number, which counts failed trials: after an interruption, the trials that
    follow would be in other brackets.
    """

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if trial.state is TrialState.FAIL:
            return -1
        if not self._pruners:
            self._try_initialization(study)
        renumbered = copy.copy(trial)
        renumbered.number = trial.user_attrs.get(SLOT, trial.number)
        return int(super()._get_bracket_id(study, renumbered))


def hide_from_pruner(trial: optuna.Trial, slots: Container[int]) -> None:
    """Let the pruner decide about a trial as if no other trial had one of these slots."""
    study = trial.study
    storage: Any = _WithoutSlots(study._storage, slots)
    trial.study = optuna.Study(study.study_name, storage, study.sampler, study.pruner)


class _WithoutSlots:
    """A storage whose trials in some slots cannot be listed."""

    def __init__(self, storage: optuna.storages.BaseStorage, slots: Container[int]):
        self._storage, self._slots = storage, slots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, deepcopy, states)
        return [trial for trial in trials if trial.user_attrs.get(SLOT) not in self._slots]
