"""`BatchedStorage`: a database of trials that gets what a trial records in one transaction, at its end.

It relies on internals of Optuna, as `search.internals` does.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

Write = Callable[[Any], None]  # of an SQLAlchemy session


class BatchedStorage(_CachedStorage):
    """Optuna's cache over a database, for searches whose trials only one process at a time runs.

    Optuna writes and synchronises the file for every hyperparameter and every epoch. Searches side by side
    would wait for each other, since SQLite has one writer at a time. What a trial has recorded is of no use
    before its end: if its process dies, it is run again.
    """

    def __init__(self, backend: RDBStorage):
        super().__init__(backend)
        self._running: dict[int, FrozenTrial] = {}  # by id: what the trial has recorded
        self._writes: dict[int, list[Write]] = {}

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write what the trial recorded if it ends; keep what it will record if it begins."""
        writes = self._writes.pop(trial_id, [])
        self._running.pop(trial_id, None)
        if writes:
            with _create_scoped_session(self._backend.scoped_session) as session:
                for write in writes:
                    write(session)
        done = bool(super().set_trial_state_values(trial_id, state, values))
        if done and state is TrialState.RUNNING:
            self._begin(trial_id)
        return done

    def _begin(self, trial_id: int) -> None:
        study_id = self._trial_id_to_study_id_and_number[trial_id][0]
        self._read_trials_from_remote_storage(study_id)
        trial = self._backend.get_trial(trial_id)
        self._studies[study_id].trials[trial.number] = trial
        self._running[trial_id], self._writes[trial_id] = trial, []

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial, with all that it has recorded."""
        trial = self._running.get(trial_id)
        return super().get_trial(trial_id) if trial is None else copy.copy(trial)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        """Read what is new in the database; nothing is while this process runs a trial of the search."""
        if not any(self._trial_id_to_study_id_and_number[trial][0] == study_id for trial in self._running):
            super()._read_trials_from_remote_storage(study_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Record a hyperparameter."""
        trial = self._running.get(trial_id)
        if trial is None:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution
        write = self._backend._set_trial_param_without_commit
        self._later(trial_id, write, trial_id, param_name, param_value_internal, distribution)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Record the value after an epoch."""
        trial = self._running.get(trial_id)
        if trial is None:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
            return
        trial.intermediate_values[step] = intermediate_value
        write = self._backend._set_trial_intermediate_value_without_commit
        self._later(trial_id, write, trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Record an attribute."""
        trial = self._running.get(trial_id)
        if trial is None:
            super().set_trial_user_attr(trial_id, key, value)
            return
        trial.user_attrs[key] = value
        write = self._backend._set_trial_attr_without_commit
        self._later(trial_id, write, models.TrialUserAttributeModel, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Record an attribute of Optuna's own."""
        trial = self._running.get(trial_id)
        if trial is None:
            super().set_trial_system_attr(trial_id, key, value)
            return
        trial.system_attrs[key] = value
        write = self._backend._set_trial_attr_without_commit
        self._later(trial_id, write, models.TrialSystemAttributeModel, trial_id, key, value)

    def _later(self, trial_id: int, write: Callable[..., None], *arguments: object) -> None:
        self._writes[trial_id].append(lambda session: write(session, *arguments))
