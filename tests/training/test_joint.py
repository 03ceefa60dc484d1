"""Trials in one population against the same trials trained alone."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from support.outcomes import OUTCOMES, with_outcome
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mil_toolkit.config.head import OPTIMIZER_NAMES, POOLING_NAMES, HeadConfig
from mil_toolkit.training.graphs import Compute
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.joint import (
    MEMBERWISE,
    POOLINGS_TOGETHER,
    JointPopulation,
    JointTrial,
    joins,
    shape_of,
)
from mil_toolkit.training.loop import predict_held_out, train
from mil_toolkit.training.optimizer import Optimizer
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import trial_members

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=5, components=4)
TRAINS = [np.array([0, 1, 2, 3, 4, 5, 6, 7]), np.array([4, 5, 6, 7, 8, 9, 10, 11])]
FOLDS = [0, 1]
# What the trials differ in: rates of zero draw nothing, and no order of patients is that of another trial.
DIFFERENCES: list[dict[str, object]] = [
    {},
    {"learning_rate": 1e-3, "embedding_dropout": 0.0, "metadata_dropout": 0.0, "momentum": 0.3},
    {"instance_dropout": 0.0, "weight_decay": 0.7, "gamma": 0.5, "auxiliary": 0.1},
    {"zero_start": False, "class_weights": False, "logistic_start": False, "metadata_dropout": 0.4},
]


def configs(**changes: object) -> list[HeadConfig]:
    return [dataclasses.replace(CONFIG, **{**changes, **each}) for each in DIFFERENCES]  # type: ignore[arg-type]


def alone(inputs: Inputs, config: HeadConfig, number: int, epochs: int) -> Tensor:
    """Return the logits of training and of prediction after each epoch, (E, 2, F, B)."""
    members = trial_members(inputs, (0, number))
    trained = islice(train(inputs, config, members, members[0].seed), epochs)
    return torch.stack(
        [torch.stack([logits, predict_held_out(model, inputs, FOLDS)]) for model, logits in trained]
    )


def begin(inputs: Inputs, trials: Sequence[HeadConfig]) -> JointPopulation:
    members = [trial_members(inputs, (0, number)) for number in range(len(trials))]
    joint = [
        JointTrial(inputs, config, each, each[0].seed) for config, each in zip(trials, members, strict=True)
    ]
    return JointPopulation(inputs, joint)


def an_epoch(population: JointPopulation) -> Tensor:
    """Return the logits of training and of prediction after an epoch, (T, 2, F, B)."""
    parts = torch.stack([population.run_epoch(), population.held_out()])  # (2, K, B)
    return parts.unflatten(1, (-1, len(FOLDS))).transpose(0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        *({"pooling": name} for name in POOLINGS_TOGETHER),
        *({"optimizer": name, "fusion": "concat", "metadata_branch": "mlp"} for name in OPTIMIZER_NAMES),
        {"image_branch": False, "metadata_branch": "mlp"},
        {"metadata_branch": "none"},
        {"standardise": False, "batch_size": 1},
    ],
    ids=str,
)
def test_every_trial_is_what_it_is_alone(changes: dict[str, object], make_patients: MakePatients) -> None:
    """Up to rounding: with other numbers of rows, kernels may add in another order."""
    inputs, trials = Inputs(make_patients(), TRAINS), configs(**changes)
    population = begin(inputs, trials)
    together = torch.stack([an_epoch(population) for _ in range(3)], 1)
    for number, config in enumerate(trials):
        expected = alone(inputs, config, number, 3)
        torch.testing.assert_close(together[number], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["number", "logarithm"])
def test_trials_of_numbers_are_what_they_are_alone(name: str, make_patients: MakePatients) -> None:
    inputs, trials = Inputs(with_outcome(make_patients(), OUTCOMES[name]), TRAINS), configs()
    assert all(joins(inputs, config) for config in trials)
    population = begin(inputs, trials)
    together = torch.stack([an_epoch(population) for _ in range(2)], 1)
    for number, config in enumerate(trials):
        torch.testing.assert_close(together[number], alone(inputs, config, number, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["classes", "ordered", "survival"])
def test_trials_with_several_outputs_are_trained_alone(name: str, make_patients: MakePatients) -> None:
    inputs = Inputs(with_outcome(make_patients(), OUTCOMES[name]), TRAINS)
    assert not any(joins(inputs, config) for config in configs())


def test_bags_of_very_different_sizes_pad_each_other(make_patients: MakePatients) -> None:
    """Mini-batches of 128 instances, which need no padding of their own, beside others that do."""
    inputs = Inputs(make_patients(12, 64), TRAINS)
    assert inputs.patients.bags is not None
    trials = configs(batch_size=2)
    population = begin(inputs, trials)
    together = torch.stack([an_epoch(population) for _ in range(2)], 1)
    for number, config in enumerate(trials):
        torch.testing.assert_close(together[number], alone(inputs, config, number, 2), rtol=1e-4, atol=1e-5)


def test_a_trial_goes_on_as_if_others_had_not_ended(make_patients: MakePatients) -> None:
    inputs, trials = Inputs(make_patients(), TRAINS), configs()
    population = begin(inputs, trials)
    an_epoch(population)
    first, _, third, _ = population.trials
    population.keep([first, third])
    an_epoch(population)
    population.keep([third])
    last = an_epoch(population)[0]
    torch.testing.assert_close(last, alone(inputs, trials[2], 2, 3)[-1], rtol=1e-4, atol=1e-5)


def test_a_trial_that_diverges_does_not_touch_the_others(make_patients: MakePatients) -> None:
    inputs, trials = Inputs(make_patients(), TRAINS), configs(optimizer="sgd")
    trials[1] = dataclasses.replace(trials[1], learning_rate=1e30)
    population = begin(inputs, trials)
    together = torch.stack([an_epoch(population) for _ in range(3)], 1)
    assert not together[1, -1].isfinite().all()
    for number in (0, 2, 3):
        expected = alone(inputs, trials[number], number, 3)
        torch.testing.assert_close(together[number], expected, rtol=1e-4, atol=1e-5)


class OnlyOnTheDevice(TorchDispatchMode):
    """Fails if an operation uses a tensor that is not on the device, here torch's `meta`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, Tensor) or value.is_meta, func
        return result


@pytest.mark.parametrize("pooling", POOLINGS_TOGETHER)
def test_what_is_captured_does_not_touch_the_host(
    pooling: str, make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a step nor the prediction, once what is kept has been computed."""
    update = Optimizer.update

    def update_by_number(self: Optimizer, gradient: Tensor, rate: Tensor, active: Sequence[bool]) -> None:
        assert rate.is_meta
        update(self, gradient, 0.1, active)  # `meta` has no optimizers with a tensor as learning rate

    monkeypatch.setattr(Optimizer, "update", update_by_number)
    inputs = Inputs(make_patients(), TRAINS, "meta")
    population, captured = begin(inputs, configs(pooling=pooling, logistic_start=False)), []
    list(population.epochs(1))
    run = population._graphs.run

    def watched(key: Hashable, compute: Compute, tensors: Sequence[Tensor]) -> Tensor:
        captured.append(key)
        with OnlyOnTheDevice():
            return run(key, compute, tensors)

    population._graphs.run = watched  # type: ignore[method-assign]
    assert all(logits.is_meta for logits in population.epochs(2)) and len(captured) == 2 * (3 + 1)


def test_every_field_decides_about_shapes_or_may_differ() -> None:
    """A new field of HeadConfig that is not listed keeps trials apart."""
    names = {field.name for field in dataclasses.fields(HeadConfig)}
    assert set(MEMBERWISE) < names and shape_of(HeadConfig()).keys() == names - set(MEMBERWISE)
    assert len({str(shape_of(config)) for config in configs()}) == 1
    for change in ({"hidden": 16}, {"fusion": "concat"}, {"batch_size": 4}, {"standardise": False}):
        assert shape_of(dataclasses.replace(CONFIG, **change)) != shape_of(CONFIG)  # type: ignore[arg-type]


def test_what_cannot_be_joined_is_listed(
    make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(make_patients(), TRAINS)
    joined = {name for name in POOLING_NAMES if joins(inputs, dataclasses.replace(CONFIG, pooling=name))}
    assert joined == set(POOLINGS_TOGETHER)
    assert not joins(inputs, dataclasses.replace(CONFIG, components=0))
    monkeypatch.setattr("mil_toolkit.training.joint.WHOLE", 6 * 128 - 1)
    assert not joins(inputs, CONFIG)
    assert joins(inputs, dataclasses.replace(CONFIG, image_branch=False, pooling="max"))
