"""Several trials at once: the results and endings that each has alone, whichever share a population."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.training import together
from mil_toolkit.training.course import Trial
from mil_toolkit.training.curves import Curves
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import run_trial
from mil_toolkit.training.readback import read_back
from mil_toolkit.training.together import TrialRequest, run_trials

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, batch_size=5, components=4, epochs=6, patience=3, optimizer="sgd")
TRAINS = [np.setdiff1d(np.arange(12), part) for part in np.split(np.arange(12), 3)]
METRIC = "balanced_log_loss"


class Stop(Exception):
    """What ends one trial."""


def stop_after(epochs: int, log: list[int]) -> Callable[[Curves, float], None]:
    def on_epoch(curves: Curves, value: float) -> None:
        log.append(len(curves.logits))
        if len(curves.logits) == epochs:
            raise Stop

    return on_epoch


@pytest.fixture(name="inputs")
def _inputs(make_patients: MakePatients) -> Inputs:
    return Inputs(make_patients(), TRAINS)


@pytest.fixture(name="joining")
def _joining(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """Return inputs whose trials share populations on the CPU; epochs are scored late, as on a card."""
    late = torch.device("meta")
    groups = together._groups

    class Elsewhere:
        patients, device = inputs.patients, late

    monkeypatch.setattr(together, "read_back", lambda epochs, _: read_back(epochs, late))
    monkeypatch.setattr(together, "_groups", lambda _, requests: groups(Elsewhere, requests))  # type: ignore[arg-type]
    monkeypatch.setattr(together, "joins", lambda _, config: config.pooling != "max")
    return inputs


def mixed(log: list[int]) -> list[TrialRequest]:
    """Return trials of two shapes that end in different ways and at different epochs."""
    changes: list[dict[str, object]] = [
        {"learning_rate": 0.02},
        {"pooling": "mean"},
        {"learning_rate": 1e30},
        {"learning_rate": 1e-9, "patience": 1},
        {"learning_rate": 0.01},
        {"pooling": "mean", "weight_decay": 0.0, "epochs": 4, "patience": 9},
        {"epochs": 2},
    ]
    endings = {4: stop_after(3, log)}
    return [
        TrialRequest(dataclasses.replace(CONFIG, **each), (0, number), endings.get(number))  # type: ignore[arg-type]
        for number, each in enumerate(changes)
    ]


def check(results: list[Trial | Exception], inputs: Inputs, exact: bool) -> None:
    """Compare results of `mixed` with trials run alone."""
    assert isinstance(results[2], Diverged) and isinstance(results[4], Stop)
    for number, request in enumerate(mixed([])):
        result = results[number]
        if isinstance(result, Exception):
            continue
        expected = run_trial(inputs, request.config, METRIC, request.seed)
        assert result.epoch == expected.epoch and len(result.curves.logits) == len(expected.curves.logits)
        tolerance = 0.0 if exact else 1e-5
        np.testing.assert_allclose(result.curves.logits, expected.curves.logits, tolerance, tolerance)
        assert abs(result.value - expected.value) <= tolerance
    lengths = {len(result.curves.logits) for result in results if isinstance(result, Trial)}
    assert {2, 4} <= lengths  # they ended at different epochs


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_on_the_cpu_every_trial_has_the_bits_that_it_has_alone(inputs: Inputs) -> None:
    log: list[int] = []
    check(run_trials(inputs, mixed(log), METRIC, Stop), inputs, exact=True)
    assert log == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_in_one_population_every_trial_ends_as_it_does_alone(joining: Inputs) -> None:
    """Also where the device is an epoch ahead of the scores: what it computed beyond an end is discarded."""
    log: list[int] = []
    check(run_trials(joining, mixed(log), METRIC, Stop), joining, exact=False)
    assert log == [1, 2, 3]


def test_trials_of_equal_shape_share_a_population(joining: Inputs) -> None:
    requests = mixed([])
    assert together._groups(joining, requests) == [[0, 2, 3, 4, 6], [1, 5]]
    apart = [dataclasses.replace(requests[0], config=dataclasses.replace(CONFIG, pooling="max"))] * 2
    assert together._groups(joining, apart) == [[0], [1]]


def test_the_cpu_trains_one_trial_after_the_other(inputs: Inputs) -> None:
    assert together._groups(inputs, mixed([])) == [[number] for number in range(7)]


@pytest.mark.parametrize("fixture", ["inputs", "joining"])
def test_another_exception_ends_all_trials(fixture: str, request: pytest.FixtureRequest) -> None:
    def interrupt(curves: Curves, value: float) -> None:
        raise KeyboardInterrupt

    requests = [TrialRequest(CONFIG, (0,)), TrialRequest(CONFIG, (1,), interrupt)]
    with pytest.raises(KeyboardInterrupt):
        run_trials(request.getfixturevalue(fixture), requests, METRIC)
