"""Checks of stored trials: whoever can write the database may have put anything into it."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.config.study import MOST_EPOCHS
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import SOME, printable
from mil_toolkit.search.internals import SLOT, enqueued_parameters
from mil_toolkit.search.space import Space
from mil_toolkit.search.trials import EPOCH, counts

_UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@contextlib.contextmanager
def unreadable_reported(source: object) -> Iterator[None]:
    """Turn the errors of Optuna about content that it cannot read into a DataError that names the source."""
    try:
        yield
    except _UNREADABLE as error:
        reason = printable(str(error).strip().partition("\n")[0]).rstrip(".")
        advice = "Ask for the original, or begin a new study."
        raise DataError(
            f"{source} holds something that no search stores: {type(error).__name__}: {reason}. {advice}"
        ) from None


def check_trials(source: object, trials: Sequence[FrozenTrial], count: int, space: Space) -> None:
    """Raise DataError where a search in this space cannot have stored these trials.

    source: what stored them, for the message; count: number of slots
    """
    problems = [
        f"{source}, trial {trial.number}: {problem}."
        for trial in trials
        for problem in _trial_problems(trial, count, space)
    ]
    slots = [trial.user_attrs[SLOT] for trial in trials if SLOT in trial.user_attrs and counts(trial)]
    if not problems and len(set(slots)) < len(slots):
        problems = [f"{source}: two trials have the same number."]
    if problems:
        more = [f"{len(problems)} problems in all."] if len(problems) > SOME else []
        raise DataError([*problems[:SOME], *more, "Ask for the original, or begin a new study."])


def check_proposed(source: object, proposed: object, space: Space) -> None:
    """Raise DataError where a search in this space cannot have proposed these trials; see `RoundSlots`."""
    problems = ["the trials of its last round are not an object"]
    if isinstance(proposed, dict) and all(isinstance(value, dict) for value in proposed.values()):
        problems = [*chain.from_iterable(_parameter_problems(value, space) for value in proposed.values())]
    if problems:
        lines = [f"{source}: {problem}." for problem in problems[:SOME]]
        raise DataError([*lines, "Ask for the original, or begin a new study."])


def _trial_problems(trial: FrozenTrial, count: int, space: Space) -> Iterator[str]:
    """Yield what is wrong with a trial, which counts only if it has a slot."""
    slot, epoch = trial.user_attrs.get(SLOT, 0), trial.user_attrs.get(EPOCH)
    if not _is_int(slot) or slot not in range(count):
        yield f"its number {_shown(slot)} is not one of {count}"
    if trial.state is TrialState.COMPLETE:
        if not _is_finite(trial.values[0] if trial.values else None):
            yield f"its value {_shown(trial.values)} is not a finite number"
        if SLOT in trial.user_attrs and not (_is_int(epoch) and epoch in range(1, MOST_EPOCHS + 1)):
            yield f"its epoch {_shown(epoch)} is not a whole number from 1"
    for step, value in trial.intermediate_values.items():
        if not (_is_int(step) and isinstance(value, float | int)):
            yield f"its value {_shown(value)} after epoch {_shown(step)} is not a number"
    problems = [
        *_parameter_problems(trial.params, space),
        *_parameter_problems(enqueued_parameters(trial), space),
    ]
    yield from problems
    if trial.state is TrialState.COMPLETE and not problems:
        with contextlib.suppress(*_UNREADABLE):
            space.config_of(trial.params)
            return
        yield "its hyperparameters are not all there"


def _parameter_problems(parameters: Mapping[str, object], space: Space) -> Iterator[str]:
    for name, value in parameters.items():
        if not space.contains(name, value):
            yield f"{printable(name)[:100]} = {_shown(value)} is not in the search space"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _shown(value: object) -> str:
    return printable(repr(value))[:100]
