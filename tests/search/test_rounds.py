"""Rounds: trials that are proposed together, end together, and do not depend on interruptions."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mil_toolkit.core.errors import DataError
from mil_toolkit.search.internals import SlotHyperband
from mil_toolkit.search.rounds import PROPOSED, Ending, RoundSlots
from mil_toolkit.search.space import Space
from mil_toolkit.search.storage import DatabaseStorage, MemoryStorage, Storage
from mil_toolkit.search.trials import NoValue, Pruned, RunningTrial

Pruners = dict[str, Callable[[], optuna.pruners.BasePruner]]
PRUNERS: Pruners = {
    "none": optuna.pruners.NopPruner,
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2),
    "hyperband": lambda: SlotHyperband(min_resource=1, max_resource=8),
}
Ended = list[tuple[int, str, float | None, dict[str, object]]]


class Killed(BaseException):
    """Ends a process where it is raised: nothing after it is done."""


def rounds(storage: Storage, pruner: str = "none", count: int = 10, **more: object) -> RoundSlots:
    return RoundSlots(storage, "final", count, False, PRUNERS[pruner](), **more)  # type: ignore[arg-type]


def sampler(number: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=number, n_startup_trials=2, constant_liar=True)


def propose(running: RunningTrial) -> float:
    return running.trial.suggest_float("x", -1, 1)


def descend(trials: Sequence[RunningTrial]) -> list[Ending]:
    return [_descend(running) for running in trials]


def _descend(running: RunningTrial) -> Ending:
    x = propose(running)
    try:
        for epoch in range(1, 9):
            running.report(epoch, x**2 + math.sin(7 * epoch + x) / 10)
    except Pruned as pruned:
        return pruned
    return NoValue("undefined") if 0.6 < x < 0.7 else x**2


def ended(of: RoundSlots) -> Ended:
    return [(trial.number, trial.state, trial.value, dict(trial.parameters)) for trial in of.counted]


def run_all(of: RoundSlots, size: int = 4) -> Ended:
    while of.run_round(size, propose, descend, sampler):
        pass
    return ended(of)


def test_every_slot_is_run_once_in_rounds() -> None:
    of, rounds_run = rounds(MemoryStorage()), []
    while run := of.run_round(4, propose, descend, sampler):
        rounds_run.append(run)
    assert rounds_run == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and of.ended
    assert [number for number, *_ in ended(of)] == list(range(10))


def test_trials_of_a_round_are_proposed_while_those_before_them_are_running() -> None:
    of, seen = rounds(MemoryStorage()), []

    def propose_and_look(running: RunningTrial) -> None:
        propose(running)
        seen.append([(each.state.name, len(each.params)) for each in of.study.trials])

    of.run_round(3, propose_and_look, descend, sampler)
    assert seen == [[("RUNNING", 1)] * count for count in (1, 2, 3)]


def test_rounds_of_one_are_trials_one_after_the_other() -> None:
    def alone(running: RunningTrial) -> float:
        ending = _descend(running)
        if isinstance(ending, Exception):
            raise ending
        return ending

    one, other = (rounds(MemoryStorage(), "median") for _ in range(2))
    while one.run_next(alone, sampler):
        pass
    assert run_all(other, 1) == ended(one)


def test_planned_parameters_come_first() -> None:
    of = rounds(MemoryStorage(), planned=[{"x": 0.25}, {"x": 0.5}])
    assert [value for _, _, value, _ in run_all(of)][:2] == [0.0625, 0.25]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_pruner_compares_a_trial_with_earlier_rounds_only(pruner: str) -> None:
    """Not with the trials of its own round, which may have reported more or fewer epochs by then."""
    size = 4
    together = run_all(rounds(MemoryStorage(), pruner), size)

    def one_by_one(trials: Sequence[RunningTrial]) -> list[Ending]:
        return [*reversed([_descend(running) for running in reversed(trials)])]

    of = rounds(MemoryStorage(), pruner)
    while of.run_round(size, propose, one_by_one, sampler):
        pass
    assert ended(of) == together
    pruned = {number for number, state, *_ in together if state == "PRUNED"}
    assert bool(pruned) is (pruner != "none") and pruned.isdisjoint(range(size))


@pytest.mark.parametrize(
    ("method", "count", "pruner"),
    [
        ("ask", 1, "median"),
        ("set_user_attr", 0, "median"),
        ("tell", 0, "median"),
        ("tell", 3, "median"),
        ("tell", 3, "hyperband"),
    ],
)
def test_a_killed_process_changes_no_trial(method: str, count: int, pruner: str, tmp_path: Path) -> None:
    """Killed while a round begins, before its first trial ends, or when some of its trials have ended."""
    expected = run_all(rounds(MemoryStorage(), pruner))
    for kills in range(3):
        of = rounds(DatabaseStorage(tmp_path), pruner)
        of.fail_running()  # as a command does that has taken the lock
        kill_after(of, method, count + (kills if method == "ask" else 0))
        with pytest.raises(Killed):
            run_all(of)
    of = rounds(DatabaseStorage(tmp_path), pruner)
    of.fail_running()
    assert run_all(of) == expected


def kill_after(of: RoundSlots, method: str, count: int) -> None:
    call, calls = getattr(of.study, method), 0

    def killing(*arguments: object, **options: object) -> object:
        nonlocal calls
        if calls == count:
            raise Killed
        calls += 1
        return call(*arguments, **options)

    setattr(of.study, method, killing)


def test_an_interrupted_round_is_failed_and_its_slots_are_free() -> None:
    def interrupted(trials: Sequence[RunningTrial]) -> list[Ending]:
        trials[0].report(1, 0.5)
        raise KeyboardInterrupt

    of = rounds(MemoryStorage())
    with pytest.raises(KeyboardInterrupt):
        of.run_round(3, propose, interrupted, sampler)
    assert [trial.state for trial in of.study.trials] == [TrialState.FAIL] * 3 and not of.counted
    assert run_all(of, 3) == run_all(rounds(MemoryStorage()), 3)


def test_a_trial_without_a_slot_fails_without_being_run() -> None:
    """Such as one that somebody enqueued in the dashboard."""
    of = rounds(MemoryStorage())
    of.study.enqueue_trial({"x": 0.5})
    assert run_all(of) == run_all(rounds(MemoryStorage()))
    assert of.study.trials[0].state is TrialState.FAIL and not of.study.trials[0].params


def test_a_closed_search_begins_no_round() -> None:
    of = rounds(MemoryStorage())
    of.run_round(4, propose, descend, sampler)
    of.close()
    assert of.run_round(4, propose, descend, sampler) == [] and of.ended and len(of.counted) == 4


@pytest.mark.parametrize("proposed", [3, [1], {"0": 5}, {"4": {"hidden": 7}}, {"4": {"unknown": 1}}])
def test_proposals_that_no_search_stores_are_refused(proposed: object, tmp_path: Path) -> None:
    of = rounds(DatabaseStorage(tmp_path))
    of.check(Space({}))
    of.study.set_user_attr(PROPOSED, {"4": {"hidden": 64, "learning_rate": 0.001}})
    of.check(Space({}))
    of.study.set_user_attr(PROPOSED, proposed)
    with pytest.raises(DataError, match="begin a new study"):
        of.check(Space({}))
