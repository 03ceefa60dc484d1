"""What a trial records reaches the database at its end, and reads as if it were there before."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from mil_toolkit.search.batched import BatchedStorage


@pytest.fixture(name="open_study")
def _open_study(tmp_path: Path) -> Callable[..., optuna.Study]:
    """Return a function that opens a search in a database, as in another process each time."""

    def open_study(pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
        storage = BatchedStorage(optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}"))
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3)
        return optuna.create_study(
            storage=storage, study_name="s", pruner=pruner, sampler=sampler, load_if_exists=True
        )

    return open_study


def curve(trial: optuna.Trial) -> float:
    """Report a falling curve, and record attributes."""
    x, kind = trial.suggest_float("x", -1, 1), trial.suggest_categorical("kind", ("a", "b"))
    trial.set_user_attr("kind", kind)
    for epoch in range(6):
        trial.report(x**2 + 1 / (1 + epoch), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x**2


def recorded(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[object, ...]]:
    """Return everything but the times of trials."""
    return [
        (trial.number, trial.state, trial.values, trial.params, trial.user_attrs, trial.intermediate_values)
        for trial in trials
    ]


def waiting(study: optuna.Study) -> optuna.Trial:
    """Begin an enqueued trial, as `Slots` does."""
    study.enqueue_trial({"x": 0.5}, {"number": 0})
    return study.ask()


def test_trials_are_those_of_optunas_own_storage(open_study: Callable[..., optuna.Study]) -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    study = open_study(pruner)
    plain = optuna.create_study(
        storage=optuna.storages.RDBStorage("sqlite://"),
        pruner=pruner,
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3),
    )
    for each in (study, plain):
        for number in range(12):
            each.enqueue_trial({}, {"number": number})
            each.optimize(curve, n_trials=1)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    assert recorded(study.trials) == recorded(plain.trials) == recorded(open_study().trials)


def test_a_running_trial_reads_what_it_recorded(open_study: Callable[..., optuna.Study]) -> None:
    study = open_study()
    trial = waiting(study)
    x = trial.suggest_float("x", 0, 1)
    trial.report(0.25, 1)
    trial.set_user_attr("epoch", 3)
    (stored,) = study.trials
    assert x == 0.5 == stored.params["x"] and stored.intermediate_values == {1: 0.25}
    assert trial.user_attrs == stored.user_attrs == {"number": 0, "epoch": 3}


def test_a_trial_writes_once(open_study: Callable[..., optuna.Study]) -> None:
    """However many epochs it has: SQLite synchronises the file with every commit."""
    study, commits = open_study(), list[object]()
    assert isinstance(study._storage, BatchedStorage)
    sqlalchemy.event.listen(study._storage._backend.engine, "commit", commits.append)

    def count(epochs: int) -> int:
        trial, before = waiting(study), len(commits)
        trial.suggest_float("x", 0, 1)
        for epoch in range(epochs):
            trial.report(1.0, epoch)
            trial.should_prune()
        study.tell(trial, 1.0)
        return len(commits) - before

    assert count(5) == count(50) < 12


def test_a_trial_whose_process_dies_leaves_nothing_but_itself(
    open_study: Callable[..., optuna.Study],
) -> None:
    trial = waiting(open_study())
    trial.suggest_float("x", 0, 1)
    trial.report(1.0, 1)
    again = open_study()
    (left,) = again.trials
    assert left.state is TrialState.RUNNING and not left.params and not left.intermediate_values
    again.tell(left.number, state=TrialState.FAIL)
    assert again.trials[0].state is TrialState.FAIL
