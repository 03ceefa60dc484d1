"""One contract for all poolings: order, lockstep, masks, attention, gradients, memory, devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.small_bags import (
    CONFIG,
    SEEDS,
    SIZES,
    WIDTH,
    embeddings,
    instances,
    outputs,
    pooling,
    some_kept,
    some_scalar,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mil_toolkit.config.head import POOLING_NAMES
from mil_toolkit.model import instances as instances_module
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import generators
from mil_toolkit.model.poolings import POOLINGS

every_pooling = pytest.mark.parametrize("name", POOLINGS)


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert tuple(POOLINGS) == POOLING_NAMES


# The contract.


@every_pooling
def test_the_order_within_a_bag_does_not_matter(name: str) -> None:
    pool, x = pooling(name), embeddings()
    order = torch.cat([torch.randperm(len(part)) + int(part[0]) for part in torch.arange(13).split(SIZES)])
    torch.testing.assert_close(outputs(pool, instances(x[:, order])), outputs(pool, instances(x)))
    attention = pool.attention(instances(x))
    torch.testing.assert_close(pool.attention(instances(x[:, order])), attention[:, order])


@every_pooling
def test_a_bag_is_pooled_the_same_alone_and_with_others(name: str) -> None:
    pool, x = pooling(name), embeddings()
    together, attention = outputs(pool, instances(x)), pool.attention(instances(x))
    assert together[0].shape == (len(SEEDS), len(SIZES), pool.width)
    assert torch.equal(together[0], pool(instances(x)))
    parts, shares = x.split(SIZES, 1), attention.split(SIZES, 1)
    for b, (part, share) in enumerate(zip(parts, shares, strict=True)):
        alone = instances(part, [part.shape[1]])
        torch.testing.assert_close(outputs(pool, alone), [part[:, b : b + 1] for part in together])
        torch.testing.assert_close(pool.attention(alone), share)


@every_pooling
def test_a_member_pools_the_same_alone_and_with_others(name: str) -> None:
    pool, x = pooling(name), embeddings()
    for k, seed in enumerate(SEEDS):
        alone = pooling(name, [seed])
        together = [part[k : k + 1] for part in outputs(pool, instances(x))]
        torch.testing.assert_close(outputs(alone, instances(x[k : k + 1])), together)


@every_pooling
def test_merging_the_standardisation_equals_standardising_copies(name: str) -> None:
    pool, x = pooling(name), embeddings(groups=1)
    shift, scale = torch.randn(len(SEEDS), 1, WIDTH), torch.rand(len(SEEDS), 1, WIDTH) + 0.5
    for kept in (None, some_kept()):
        shared = instances(x, kept=kept, member_count=len(SEEDS))
        merged = dataclasses.replace(shared, shift=shift, scale=scale)
        copies = instances((x - shift) * scale, kept=kept)
        torch.testing.assert_close(outputs(pool, merged), outputs(pool, copies), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pool.attention(merged), pool.attention(copies), rtol=1e-4, atol=1e-5)


@every_pooling
@pytest.mark.parametrize("groups", [1, 2])
def test_shared_embeddings_are_pooled_like_copies(groups: int, name: str) -> None:
    pool, x = pooling(name, seeds=range(4)), embeddings(groups=groups)
    shared, copies = instances(x, member_count=4), instances(x.repeat_interleave(4 // groups, 0))
    torch.testing.assert_close(outputs(pool, shared), outputs(pool, copies))
    torch.testing.assert_close(pool.attention(shared), pool.attention(copies))


@every_pooling
def test_masking_instances_equals_removing_them(name: str) -> None:
    pool, x, kept = pooling(name), embeddings(), some_kept()
    masked, attention = outputs(pool, instances(x, kept=kept)), pool.attention(instances(x, kept=kept))
    assert attention[~kept].count_nonzero() == 0
    for k, seed in enumerate(SEEDS):
        sizes = [int(part.sum()) for part in kept[k].split(SIZES)]
        removed = instances(x[k : k + 1, kept[k]], sizes)
        alone = pooling(name, [seed])
        torch.testing.assert_close([part[k : k + 1] for part in masked], outputs(alone, removed))
        torch.testing.assert_close(attention[k, kept[k]], alone.attention(removed)[0])


@every_pooling
def test_attention_sums_to_one_in_each_bag(name: str) -> None:
    attention = pooling(name).attention(instances(embeddings()))
    assert attention.shape == (len(SEEDS), sum(SIZES))
    assert (attention >= 0).all()
    sums = torch.stack([part.sum(1) for part in attention.split(SIZES, 1)], 1)
    torch.testing.assert_close(sums, torch.ones(len(SEEDS), len(SIZES)))


@every_pooling
def test_a_bag_of_one_instance_has_all_the_attention(name: str) -> None:
    pool, x = pooling(name), embeddings(sizes=[1])
    torch.testing.assert_close(pool.attention(instances(x, [1])), torch.ones(len(SEEDS), 1))
    x.requires_grad_()
    assert all(part.isfinite().all() for part in outputs(pool, instances(x, [1])))
    some_scalar(pool, instances(x, [1])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in (x, *pool.parameters()))


@every_pooling
def test_a_gradient_reaches_everything_and_stays_with_its_member(name: str) -> None:
    pool, x = pooling(name), embeddings().requires_grad_()
    some_scalar(pool, instances(x, kept=some_kept()), member=1).backward()
    for parameter_name, parameter in [("x", x), *pool.named_parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad[[0, 2]].count_nonzero() == 0
        assert parameter.grad[1].count_nonzero() > 0, parameter_name


@every_pooling
def test_bfloat16_is_close_to_float32(name: str) -> None:
    pool, x = pooling(name), embeddings().bfloat16()
    half = outputs(pool, instances(x))
    assert all(part.dtype == torch.float32 for part in half)
    torch.testing.assert_close(half, outputs(pool, instances(x.float())), rtol=0.05, atol=0.05)


@every_pooling
def test_repeated_instances_and_constant_columns_give_finite_results(name: str) -> None:
    """Also on embeddings of wildly different scale."""
    pool, x = pooling(name), embeddings()
    x[..., 1], x[..., 2], x[..., 3] = 0.0, 1e4, 1e-6
    x[:, :4] = x[:, :1]
    x.requires_grad_()
    some_scalar(pool, instances(x)).backward()
    assert all(part.isfinite().all() for part in outputs(pool, instances(x)))
    assert all(parameter.grad.isfinite().all() for parameter in (x, *pool.parameters()))


@every_pooling
@pytest.mark.parametrize("layers", [0, 1])
def test_with_zero_start_the_images_have_no_effect_on_the_first_logits(layers: int, name: str) -> None:
    config = dataclasses.replace(CONFIG, pooling=name, zero_start=True, instance_layers=layers)
    model = MILModel(config, WIDTH, 2, generators(SEEDS))
    metadata = torch.randn(len(SEEDS), len(SIZES), 2)
    linear = torch.randn(len(SEEDS), 3, 1)
    model.start_at(linear)
    expected = (metadata @ linear[:, :-1] + linear[:, -1:]).squeeze(-1)
    torch.testing.assert_close(model(instances(embeddings()), metadata).total, expected)


# Memory and other devices.


def results(name: str, x: Tensor, sizes: list[int], kept: Tensor | None) -> list[Tensor]:
    """Return the pooled bags, the attention and the gradients of a pooling."""
    pool, x = pooling(name), x.clone().requires_grad_()
    bags = instances(x, sizes, kept)
    learned = [x, *pool.parameters()]
    gradients = torch.autograd.grad(some_scalar(pool, bags), learned)
    return [*outputs(pool, bags), pool.attention(bags), *gradients]


@every_pooling
@pytest.mark.parametrize("dropped", [False, True])
def test_blocks_of_bags_give_what_all_bags_at_once_give(
    name: str, dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several blocks: some of several bags, one of a bag that is larger than a block may be."""
    sizes = [2, 1, 9, 3, 3, 1]
    x = torch.randn(len(SEEDS), sum(sizes), WIDTH, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(x.shape[1]) % 4 != 1 if dropped else None
    kept = None if kept is None else kept.expand(len(SEEDS), -1).clone()
    if kept is not None:
        kept[:, 2] = True  # the only instance of its bag
    expected = results(name, x, sizes, kept)
    monkeypatch.setattr(instances_module, "WHOLE", 0)
    monkeypatch.setattr(instances_module, "BLOCK", 8)
    assert [len(block.sizes) for block in instances(x, sizes).blocks] == [2, 1, 1, 2]
    for one, other in zip(expected, results(name, x, sizes, kept), strict=True):
        torch.testing.assert_close(one, other)


class LargestTensor(TorchDispatchMode):
    """Takes note of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [value.numel() for value in tree_leaves(result) if isinstance(value, Tensor)]
        self.elements = max([self.elements, *made])
        return result


def largest(bag_count: int, name: str) -> int:
    """Return the largest tensor of forward and backward passes, for so many bags of 20 instances."""
    x = torch.randn(1, 20 * bag_count, WIDTH, requires_grad=True)
    pool = POOLINGS[name](WIDTH, CONFIG, generators([0]))
    with LargestTensor() as seen:
        bags = instances(x, [20] * bag_count, member_count=1)
        some_scalar(pool, bags).backward()
        pool.attention(bags)
    return seen.elements


@every_pooling
def test_memory_grows_no_faster_than_the_number_of_bags(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with its square, as the matrix of bags and instances does."""
    monkeypatch.setattr(instances_module, "WHOLE", 0)
    monkeypatch.setattr(instances_module, "BLOCK", 100)
    assert largest(40, name) <= 2.05 * largest(20, name)


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("cuda", False)])
def test_attention_on_cuda_uses_the_kernels_that_add_in_a_fixed_order(
    device: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled = []

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
        switches = torch.backends.cuda
        enabled.append((switches.flash_sdp_enabled(), switches.mem_efficient_sdp_enabled()))
        return query

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    with FakeTensorMode():
        pool = pooling("transformer")
        move(pool, device)
        pool(on(device, SIZES))
    assert enabled == [(fused, fused)] * len(SIZES)


def move(pool: nn.Module, device: str) -> None:
    """Replace the parameters and buffers of a pooling by fake tensors on a device that need not exist."""
    for module in pool.modules():
        for name, value in module._parameters.items():
            assert value is not None
            module._parameters[name] = nn.Parameter(torch.empty(value.shape, device=device))
        for name, buffer in module._buffers.items():
            assert buffer is not None
            module._buffers[name] = torch.empty(buffer.shape, device=device)


def on(device: str, sizes: Sequence[int]) -> Instances:
    """Return bags of fake tensors on a device that need not exist."""
    x = torch.empty(len(SEEDS), sum(sizes), WIDTH, device=device)
    bag = torch.empty(sum(sizes), dtype=torch.int64, device=device)
    kept = torch.empty(len(SEEDS), sum(sizes), dtype=torch.bool, device=device)
    return Instances(x, bag, sizes, len(SEEDS), kept=kept)


@every_pooling
@pytest.mark.parametrize("whole", [True, False])
def test_no_tensor_of_a_pooling_is_on_another_device(
    name: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretended card, where mixing devices is an error."""
    if not whole:
        monkeypatch.setattr(instances_module, "WHOLE", 0)
        monkeypatch.setattr(instances_module, "BLOCK", 8)
    with FakeTensorMode():
        pool = pooling(name)
        move(pool, "cuda")
        bags = on("cuda", SIZES)
        assert {part.device for part in (*outputs(pool, bags), pool.attention(bags))} == {
            torch.device("cuda", 0)
        }
        move(pool, "cpu")
        if any(True for _ in pool.parameters()):
            with pytest.raises(RuntimeError, match="cpu"):
                pool(bags)
