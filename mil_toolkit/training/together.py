"""`run_trials`: several trials, those of equal shape in one population where this pays."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.training.course import Course, OnEpoch, Trial
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.joint import JointPopulation, JointTrial, joins, shape_of
from mil_toolkit.training.procedure import run_trial, trial_members
from mil_toolkit.training.readback import read_back

Ends = tuple[type[Exception], ...]  # the exceptions that end a trial, but not the others


@dataclass(frozen=True)
class TrialRequest:
    """A trial to run; see `run_trial`."""

    config: HeadConfig
    seed: Sequence[int]
    on_epoch: OnEpoch | None = None


def run_trials(
    inputs: Inputs, requests: Sequence[TrialRequest], objective: str, stop: type[Exception] = Diverged
) -> list[Trial | Exception]:
    """Run trials, and return the result of each, or the exception that ended it: Diverged or a `stop`.

    stop: what an `on_epoch` raises to end its trial; any other exception ends all trials

    The results are those of `run_trial`; where trials share a population, up to the rounding of other
    kernels. They do so on a device other than the CPU, if they are of equal shape and `joins` allows it. On
    the CPU, where most time goes into computing, they would gain nothing and lose their equal bits.
    """
    ended: dict[int, Trial | Exception] = {}
    ends = Diverged, stop
    for numbers in _groups(inputs, requests):
        group = [requests[number] for number in numbers]
        if len(group) > 1:
            results = _JointRun(inputs, group, objective, ends).run()
        else:
            results = [_run_alone(inputs, group[0], objective, ends)]
        ended |= zip(numbers, results, strict=True)
    return [ended[number] for number in range(len(requests))]


def _groups(inputs: Inputs, requests: Sequence[TrialRequest]) -> list[list[int]]:
    """Return the numbers of the trials of each population, in the order of their first trials."""
    groups: list[list[int]] = []
    for number, request in enumerate(requests):
        shape = shape_of(request.config)
        equal = [group for group in groups if shape_of(requests[group[0]].config) == shape]
        if equal and inputs.device.type != "cpu" and joins(inputs, request.config):
            equal[0].append(number)
        else:
            groups.append([number])
    return groups


def _run_alone(inputs: Inputs, request: TrialRequest, objective: str, ends: Ends) -> Trial | Exception:
    try:
        return run_trial(inputs, request.config, objective, request.seed, request.on_epoch)
    except ends as error:
        return error


class _JointCourse:
    """A trial of a joint population: its course, and how it ended."""

    def __init__(self, inputs: Inputs, request: TrialRequest, objective: str, ends: Ends):
        members = trial_members(inputs, request.seed)
        self.trial = JointTrial(inputs, request.config, members, members[0].seed)
        self.course = Course(inputs, request.config, objective, request.on_epoch)
        self.ends = ends
        self.result: Trial | Exception | None = None

    def continues(self, epoch: int) -> bool:
        """Return whether the trial is trained further after this many epochs."""
        return self.result is None and epoch < self.course.config.epochs

    def take(self, logits: np.ndarray) -> None:
        """Score the next epoch from its logits (F, B)."""
        try:
            self.course.take(logits)
        except self.ends as error:
            self.result = error
            return
        if self.course.ended:
            self.result = self.course.result()


class _JointRun:
    """Trials in one population, which shrinks as they end."""

    def __init__(self, inputs: Inputs, requests: Sequence[TrialRequest], objective: str, ends: Ends):
        self.inputs = inputs
        self.courses = [_JointCourse(inputs, request, objective, ends) for request in requests]
        self.population = JointPopulation(inputs, [each.trial for each in self.courses])
        self._unscored: deque[list[_JointCourse]] = deque()  # the trials of each epoch that was begun

    def run(self) -> list[Trial | Exception]:
        """Run the trials to their ends, and return the result of each or the exception that ended it."""
        for logits in read_back(self._epochs(), self.inputs.device):
            trials = self._unscored.popleft()
            for each, part in zip(trials, np.split(logits, len(trials)), strict=True):
                if each.result is None:
                    each.take(part)
        return [each.result for each in self.courses if each.result is not None]

    def _epochs(self) -> Iterator[Tensor]:
        """Yield the logits (K, B) of each epoch of the trials that have not ended."""
        while left := [each for each in self.courses if each.continues(self.population.epoch)]:
            self.population.keep([each.trial for each in left])
            self._unscored.append(left)
            yield from self.population.epochs(1)
