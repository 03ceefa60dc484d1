"""The logistic hazard loss against its definition, the formula of pycox, and the survival curve."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.evaluation.discrete_time import survival_from_logits, to_intervals
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.survival_losses import hazard_losses

K, B, T = 2, 8, 4


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(K, B, T, generator=random, dtype=torch.float64)
    event = torch.rand(K, B, generator=random) < 0.5
    survived = torch.randint(0, T + 1, (K, B), generator=random)
    return logits, survived, event & (survived < T)


def one_by_one(logits: Tensor, survived: int, event: bool) -> float:
    hazards = logits.sigmoid()
    likelihood = torch.ones((), dtype=torch.float64)
    for interval in range(survived):
        likelihood = likelihood * (1 - hazards[interval])
    if event:
        likelihood = likelihood * hazards[survived]
    return float(-likelihood.log())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_loss_is_the_negative_logarithm_of_the_likelihood(seed: int) -> None:
    logits, survived, event = drawn(seed)
    losses = hazard_losses(logits, survived, event)
    for member in range(K):
        for patient in range(B):
            expected = one_by_one(
                logits[member, patient], int(survived[member, patient]), bool(event[member, patient])
            )
            assert float(losses[member, patient]) == pytest.approx(expected)


def pycox_loss(phi: Tensor, index: Tensor, event: Tensor) -> Tensor:
    """Return nll_logistic_hazard of pycox 0.3, whose index is that of the last interval that counts."""
    target = torch.zeros_like(phi).scatter(1, index[:, None], event[:, None].to(phi.dtype))
    terms = functional.binary_cross_entropy_with_logits(phi, target, reduction="none")
    return terms.cumsum(1).gather(1, index[:, None])[:, 0]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_loss_agrees_with_the_published_formula_of_pycox(seed: int) -> None:
    logits, survived, event = drawn(seed)
    losses = hazard_losses(logits, survived, event)
    index = torch.where(event, survived, survived - 1)
    for member in range(K):
        known = index[member] >= 0
        expected = pycox_loss(logits[member][known], index[member][known], event[member][known])
        torch.testing.assert_close(losses[member][known], expected)
        assert (losses[member][~known] == 0).all()


def test_the_loss_of_a_censored_patient_is_that_of_the_survival_curve() -> None:
    logits = drawn(0)[0]
    survived = torch.full((K, B), 3)
    losses = hazard_losses(logits, survived, torch.zeros(K, B, dtype=torch.bool))
    survival = survival_from_logits(logits.numpy())[..., 2]
    np.testing.assert_allclose(losses.numpy(), -np.log(survival))


def test_hazards_beyond_the_time_of_a_patient_have_no_gradient() -> None:
    logits, survived, event = drawn(1)
    logits.requires_grad_()
    hazard_losses(logits, survived, event).sum().backward()
    assert logits.grad is not None
    last = survived + event.long()
    beyond = torch.arange(T) >= last[..., None]
    assert (logits.grad[beyond] == 0).all()
    assert (logits.grad[~beyond] != 0).all()


def test_the_best_constant_hazards_are_the_shares_of_events_among_those_at_risk() -> None:
    times = np.array([1.0, 1.5, 2.5, 2.5, 3.0, 3.5, 4.0, 5.0])
    events = np.array([True, False, True, True, False, True, True, False])
    intervals = to_intervals(times, events, np.array([1.0, 2.0, 3.0, 4.0]))
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10)
    survived, event = (torch.from_numpy(values)[None] for values in intervals)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = hazard_losses(logits.expand(1, 8, 4), survived, event).sum()
        value.backward()
        return value

    optimizer.step(loss)
    outlived = intervals.survived
    expected = [
        (intervals.event & (outlived == place)).sum()
        / ((outlived > place) | (intervals.event & (outlived == place))).sum()
        for place in range(4)
    ]
    np.testing.assert_allclose(logits.detach().sigmoid().numpy(), expected, atol=1e-4)


def test_a_member_has_the_loss_that_it_has_alone() -> None:
    logits, survived, event = drawn(2)
    together = hazard_losses(logits, survived, event)
    for place in range(K):
        alone = hazard_losses(
            logits[place : place + 1], survived[place : place + 1], event[place : place + 1]
        )
        assert torch.equal(together[place], alone[0])


def test_gradients_agree_with_differences() -> None:
    logits, survived, event = drawn(3)
    assert torch.autograd.gradcheck(lambda x: hazard_losses(x, survived, event), logits.requires_grad_())


@pytest.mark.parametrize(
    "changes", [{}, {"fusion": "late"}, {"image_branch": False}, {"logistic_start": True}]
)
def test_lockstep_training_equals_training_one_member_at_a_time(
    changes: dict[str, Any], make_patients: Callable[..., Patients]
) -> None:
    patients, random = make_patients(), np.random.default_rng(0)
    targets = np.stack([random.integers(1, 9, 12), [1, 1, 0] * 4], axis=-1).astype(float)
    outcome = Survival("OS", "DEAD", 4).fitted(targets)
    patients = dataclasses.replace(patients, labels=targets, outcome=outcome)
    config = HeadConfig(hidden=8, batch_size=4, epochs=3, components=4, **changes)
    inputs = Inputs(patients, [np.arange(8), np.arange(4, 12)])
    members = [Member(0, 10), Member(1, 20), Member(0, 30)]
    *_, (together, _) = train(inputs, config, members, order_seed=5)
    for number, member in enumerate(members):
        *_, (alone, _) = train(inputs, config, [member], order_seed=5)
        expected = dict(together.named_parameters())
        for name, value in alone.named_parameters():
            torch.testing.assert_close(value[0], expected[name][number], rtol=1e-3, atol=1e-4)
