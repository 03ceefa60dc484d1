"""Trials as the rest of the package sees them: `RunningTrial` and `FinishedTrial`."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.search.internals import SLOT
from mil_toolkit.search.space import Space

EPOCH = "epoch"  # user attribute of a complete trial: its number of epochs
LOGITS = "logits"  # user attribute of a trial: its out-of-fold logits, as text
LOST = "lost"  # user attribute of a trial that ended without a value: the reason
Pruned = optuna.TrialPruned


class NoValue(Exception):
    """Raised by an objective whose trial ended without a value; the trial still counts."""


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that counts: it is complete, was pruned, or ended without a value.

    number: its slot, from 0; state: "COMPLETE", "PRUNED" or "FAIL"; value: None without one
    parameters: the values of the hyperparameters that the search varied; epoch: number of epochs, if complete
    begun, ended: local times; reported: number of epochs that it reported
    logits_text: the out-of-fold logits as stored; None where the trial has none, and in older versions
    """

    number: int
    state: str
    value: float | None
    parameters: dict[str, Value]
    epoch: int | None
    begun: datetime | None
    ended: datetime | None
    logits_text: str | None = None
    reported: int = 0

    @property
    def logits(self) -> np.ndarray | None:
        """The logits of the held-out patients of the inner folds, float32, in the order of the patients.

        (n,), or flat (n * C,) if the head has several outputs.

        Of a complete trial at its chosen epoch, of a pruned one at its best epoch.
        """
        if self.logits_text is None:
            return None
        return np.frombuffer(base64.b64decode(self.logits_text), dtype="<f4")

    @property
    def complete(self) -> bool:
        """Whether the trial has a final value."""
        return self.state == TrialState.COMPLETE.name

    @classmethod
    def of(cls, trial: FrozenTrial) -> "FinishedTrial":
        """Convert Optuna's trial."""
        return cls(
            number=slot_of(trial),
            state=trial.state.name,
            value=trial.value,
            parameters=dict(trial.params),
            epoch=trial.user_attrs.get(EPOCH),
            begun=trial.datetime_start,
            ended=trial.datetime_complete,
            logits_text=trial.user_attrs.get(LOGITS),
            reported=len(trial.intermediate_values),
        )


@dataclass(frozen=True)
class RunningTrial:
    """A trial under evaluation; check: raises KeyboardInterrupt if the process was asked to stop."""

    trial: optuna.Trial
    check: Callable[[], None]

    @property
    def number(self) -> int:
        """The trial's slot, from 0."""
        return int(self.trial.user_attrs[SLOT])

    def suggest(self, space: Space) -> HeadConfig:
        """Return the configuration to evaluate."""
        return space.suggest(self.trial)

    def report(self, epoch: int, value: float) -> None:
        """Report the objective after an epoch, counted from 1.

        Raises Pruned where the trial is not worth continuing, KeyboardInterrupt where the process is to stop.
        The first trial, which all others have to surpass, is never pruned.
        """
        self.check()
        self.trial.report(value, epoch)
        if self.trial.should_prune() and self.number:
            raise Pruned

    def record_epoch(self, epoch: int) -> None:
        """Record the number of epochs of the trial."""
        self.trial.set_user_attr(EPOCH, epoch)

    def record_logits(self, logits: np.ndarray) -> None:
        """Record the logits (n,) of the held-out patients of the inner folds, four bytes each."""
        self.trial.set_user_attr(LOGITS, encode_logits(logits))

    def record_loss(self, reason: str) -> None:
        """Record why the trial ended without a value."""
        self.trial.set_user_attr(LOST, reason)


def encode_logits(logits: np.ndarray) -> str:
    """Return logits (n,) as the text of four bytes each; see `FinishedTrial.logits`."""
    return base64.b64encode(logits.astype("<f4").tobytes()).decode()


def slot_of(trial: FrozenTrial) -> int:
    """Return the slot of a trial that has one."""
    return int(trial.user_attrs[SLOT])


def counts(trial: FrozenTrial) -> bool:
    """Return whether a trial used up its slot: it ended, and did not only die with its process."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or LOST in trial.user_attrs
