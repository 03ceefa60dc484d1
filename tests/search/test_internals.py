"""The parts of Optuna's internals that are used; a release that changes them fails here."""

from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.search.internals import (
    SLOT,
    SlotHyperband,
    is_already_finished,
    original_error,
    record_heartbeat,
)


@pytest.fixture(name="study")
def _study(tmp_path: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{tmp_path / 'trials.db'}", heartbeat_interval=1, grace_period=2
    )
    return optuna.create_study(storage=storage)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_heartbeat_is_recorded_for_a_waiting_trial(study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.5})
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    storage = study._storage
    record_heartbeat(getattr(storage, "_backend", storage), waiting)
    engine = getattr(storage, "_backend", storage).engine  # a study caches its storage
    with engine.connect() as connection:
        beats = connection.execute(sqlalchemy.text("select count(*) from trial_heartbeats")).scalar()
    assert beats == 1


def test_only_a_finished_trial_counts_as_finished_by_another_process(study: optuna.Study) -> None:
    study.optimize(lambda _: 1.0, n_trials=1)
    (trial,) = study.trials
    with pytest.raises(ValueError) as caught:
        study.tell(trial.number, 2.0)
    assert is_already_finished(caught.value)
    assert not is_already_finished(ValueError("another one"))


@pytest.mark.parametrize("failing", ["set_trial_state_values", "get_trial"])
def test_the_storages_own_error_is_found_under_optunas(
    failing: str, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = RuntimeError("the disk is full")

    def fail(*_: object, **__: object) -> None:
        raise own

    def objective(trial: optuna.Trial) -> float:
        monkeypatch.setattr(type(study._storage), failing, fail)
        return 1.0

    with pytest.raises(Exception) as caught:
        study.optimize(objective, n_trials=1)
    assert original_error(caught.value) is own


def test_any_other_error_is_its_own_original() -> None:
    error = ValueError("Should not be replaced.")
    assert original_error(error) is error


def test_a_bracket_depends_on_the_slot_and_not_on_the_number() -> None:
    def bracket(number: int, slot: int) -> int:
        study = optuna.create_study(
            study_name="search", pruner=SlotHyperband(min_resource=1, max_resource=27)
        )
        trial = optuna.trial.create_trial(value=1.0, user_attrs={SLOT: slot})
        trial.number = number
        pruner = study.pruner
        assert isinstance(pruner, SlotHyperband)
        return pruner._get_bracket_id(study, trial)

    assert len({bracket(number, 3) for number in range(20)}) == 1
    assert len({bracket(3, slot) for slot in range(20)}) > 1


def test_hyperband_still_has_the_methods_that_are_overridden() -> None:
    pruner = optuna.pruners.HyperbandPruner
    assert all(callable(getattr(pruner, name)) for name in ("_get_bracket_id", "_try_initialization"))
    assert issubclass(optuna.storages.RDBStorage, BaseStorage)
    assert "_trial_id" in vars(FrozenTrial) or hasattr(optuna.trial.create_trial(value=1.0), "_trial_id")
