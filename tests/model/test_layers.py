"""Layers with a leading member axis against torch's own, one member at a time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.model import kernels
from mil_toolkit.model.layers import (
    Linear,
    activated,
    draw,
    drawn_dropout,
    dropout_of,
    generators,
    keep_all,
    scores,
)

SEEDS = [3, 1, 4]


def test_linear_is_each_members_own_linear() -> None:
    layer = Linear(5, 7, generators(SEEDS))
    x = torch.randn(3, 11, 5)
    for k in range(3):
        expected = functional.linear(x[k], layer.weight[k].T, layer.bias[k, 0])
        torch.testing.assert_close(layer(x)[k], expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_linear_on_shared_input_is_linear_on_copies(groups: int) -> None:
    layer = Linear(5, 7, generators(range(4)))
    x = torch.randn(groups, 11, 5)
    torch.testing.assert_close(layer(x), layer(x.repeat_interleave(4 // groups, 0)))


@pytest.mark.parametrize("groups", [1, 2])
def test_linear_passes_the_gradients_of_copies_to_shared_input(groups: int) -> None:
    layer = Linear(5, 7, generators(range(4)))
    x = torch.randn(groups, 11, 5, requires_grad=True)
    weights = torch.randn(4, 11, 7)
    copied = x.repeat_interleave(4 // groups, 0)
    shared = torch.autograd.grad((layer(x) * weights).sum(), [x, layer.weight, layer.bias])
    copies = torch.autograd.grad((layer(copied) * weights).sum(), [x, layer.weight, layer.bias])
    for one, other in zip(shared, copies, strict=True):
        torch.testing.assert_close(one, other)


def test_linear_computes_in_the_precision_of_its_input_and_keeps_its_weights() -> None:
    layer = Linear(5, 7, generators(SEEDS))
    out = layer(torch.randn(3, 11, 5).bfloat16())
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_linear_starts_within_the_bound_of_torch_and_spreads_over_it() -> None:
    layer = Linear(100, 200, generators(SEEDS))
    bound = 1 / math.sqrt(100)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert Linear(5, 7, generators(SEEDS), zero=True).weight.count_nonzero() == 0


def test_a_member_draws_the_same_alone_and_with_others() -> None:
    together = draw(generators(SEEDS), 4, 2)
    for k, seed in enumerate(SEEDS):
        assert torch.equal(draw(generators([seed]), 4, 2)[0], together[k])


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(3, 10_000)
    dropped = dropout_of(generators(SEEDS))(x, 0.25)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])


def test_dropout_of_rate_zero_draws_nothing() -> None:
    own = generators([0])
    x = torch.randn(1, 8)
    assert dropout_of(own)(x, 0.0) is x
    assert torch.equal(draw(own, 2), draw(generators([0]), 2))
    assert keep_all(x, 0.9) is x


def test_dropout_drawn_before_is_dropout_drawn_when_it_is_needed() -> None:
    x, other = torch.randn(3, 4, 2), torch.randn(3, 4, 5)
    lazy, own = dropout_of(generators(SEEDS)), generators(SEEDS)
    drawn = drawn_dropout([draw(own, 4, 2) >= 0.25, draw(own, 4, 5) >= 0.5])
    for dropout in (lazy, drawn):
        assert dropout(x, 0.0) is x
    assert torch.equal(lazy(x, 0.25), drawn(x, 0.25)) and torch.equal(lazy(other, 0.5), drawn(other, 0.5))


@pytest.fixture(params=["fused", "separate"])
def product_and_activation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with oneDNN's fused product and activation, and as in builds of torch without it."""
    if request.param == "separate":
        monkeypatch.setattr(kernels, "_FUSED_DTYPES", set())
    elif not kernels._FUSED_DTYPES:
        pytest.skip("torch is built without oneDNN")


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_several_scores_of_a_member_are_one_after_the_other(groups: int) -> None:
    hidden, weight = torch.randn(groups, 11, 4 // groups * 7), torch.randn(4, 7, 3)
    own = hidden.unflatten(-1, (-1, 7)).transpose(1, 2).flatten(0, 1)  # (4, 11, 7)
    expected = (own @ weight).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(scores(hidden, weight), expected)
    for number in range(3):
        alone = scores(hidden, weight[..., number : number + 1])
        torch.testing.assert_close(scores(hidden, weight)[number::3], alone)


@pytest.mark.usefixtures("product_and_activation")
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [torch.tanh, torch.sigmoid])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activated_layers_and_their_gradients_are_each_members_own(
    kind: Callable[[Tensor], Tensor], groups: int, dtype: torch.dtype
) -> None:
    layer, score = Linear(5, 7, generators(range(4))), Linear(7, 1, generators(range(4)))
    learned = [layer.weight, layer.bias, score.weight]
    x = torch.randn(groups, 11, 5).to(dtype).requires_grad_()
    weights = torch.randn(4, 11)
    hidden = activated(x, layer.weight, layer.bias, kind)
    assert hidden.shape == (groups, 11, 4 // groups * 7)
    assert hidden.dtype == dtype
    ours = scores(hidden, score.weight)
    assert ours.dtype == torch.float32
    copied = x.float().repeat_interleave(4 // groups, 0)
    expected = (kind(copied @ layer.weight + layer.bias) @ score.weight).squeeze(-1)
    tolerance = {"rtol": 0.03, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(ours, expected, **tolerance)
    gradients = [torch.autograd.grad((y * weights).sum(), [x, *learned]) for y in (ours, expected)]
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.float(), other.float(), **tolerance)


def test_activated_layers_are_the_same_when_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(5, 7, generators(range(4)))
    x = torch.randn(2, 11, 5)
    expected = activated(x, layer.weight, layer.bias, torch.tanh)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(activated(x, layer.weight, layer.bias, torch.tanh), expected)
