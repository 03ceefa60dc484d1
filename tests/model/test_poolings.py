"""One contract for all poolings, and each pooling against its formula, bag by bag."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mil_toolkit.config import POOLING_NAMES, HeadConfig
from mil_toolkit.model import poolings
from mil_toolkit.model.layers import generators
from mil_toolkit.model.poolings import (
    POOLINGS,
    Attention,
    GatedAttention,
    Instances,
    Max,
    NoisyAnd,
    TopK,
    Transformer,
)

CONFIG = HeadConfig(hidden=8, zero_start=False, top_k=2)
WIDTH = 5
SIZES = (4, 1, 6, 2)
SEEDS = (11, 22, 33)
every_pooling = pytest.mark.parametrize("name", POOLINGS)


def pooling(name: str, seeds: Sequence[int] = SEEDS, width: int = WIDTH) -> nn.Module:
    pool = POOLINGS[name](width, CONFIG, generators(seeds))
    assert isinstance(pool, nn.Module)
    return pool


def embeddings(groups: int = len(SEEDS), sizes: Sequence[int] = SIZES) -> Tensor:
    return torch.randn(groups, sum(sizes), WIDTH, generator=torch.Generator().manual_seed(5))


def instances(
    x: Tensor, sizes: Sequence[int] = SIZES, kept: Tensor | None = None, member_count: int = 0
) -> Instances:
    return dataclasses.replace(Instances.of(x, torch.tensor(sizes), member_count or len(x)), kept=kept)


def some_kept() -> Tensor:
    """A mask that leaves out some instances of the larger bags, different ones for each member."""
    kept = torch.ones(len(SEEDS), sum(SIZES), dtype=torch.bool)
    kept[0, [0, 2]] = kept[1, [5, 7, 8]] = kept[2, [1, 11]] = False
    return kept


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert tuple(POOLINGS) == POOLING_NAMES


# The contract.


@every_pooling
def test_the_order_within_a_bag_does_not_matter(name: str) -> None:
    pool, x = pooling(name), embeddings()
    order = torch.cat([torch.randperm(len(part)) + int(part[0]) for part in torch.arange(13).split(SIZES)])
    torch.testing.assert_close(pool(instances(x[:, order])), pool(instances(x)))
    attention = pool.attention(instances(x))
    torch.testing.assert_close(pool.attention(instances(x[:, order])), attention[:, order])


@every_pooling
def test_a_bag_is_pooled_the_same_alone_and_with_others(name: str) -> None:
    pool, x = pooling(name), embeddings()
    together, attention = pool(instances(x)), pool.attention(instances(x))
    assert together.shape == (len(SEEDS), len(SIZES), pool.width)
    parts, shares = x.split(SIZES, 1), attention.split(SIZES, 1)
    for b, (part, share) in enumerate(zip(parts, shares, strict=True)):
        alone = instances(part, [part.shape[1]])
        torch.testing.assert_close(pool(alone)[:, 0], together[:, b])
        torch.testing.assert_close(pool.attention(alone), share)


@every_pooling
def test_a_member_pools_the_same_alone_and_with_others(name: str) -> None:
    pool, x = pooling(name), embeddings()
    for k, seed in enumerate(SEEDS):
        alone = pooling(name, [seed])
        torch.testing.assert_close(alone(instances(x[k : k + 1]))[0], pool(instances(x))[k])


@every_pooling
def test_merging_the_standardisation_equals_standardising_copies(name: str) -> None:
    pool, x = pooling(name), embeddings(groups=1)
    shift, scale = torch.randn(len(SEEDS), 1, WIDTH), torch.rand(len(SEEDS), 1, WIDTH) + 0.5
    for kept in (None, some_kept()):
        shared = instances(x, kept=kept, member_count=len(SEEDS))
        merged = dataclasses.replace(shared, shift=shift, scale=scale)
        copies = instances((x - shift) * scale, kept=kept)
        torch.testing.assert_close(pool(merged), pool(copies), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pool.attention(merged), pool.attention(copies), rtol=1e-4, atol=1e-5)


@every_pooling
@pytest.mark.parametrize("groups", [1, 2])
def test_shared_embeddings_are_pooled_like_copies(groups: int, name: str) -> None:
    pool, x = pooling(name, seeds=range(4)), embeddings(groups=groups)
    shared, copies = instances(x, member_count=4), instances(x.repeat_interleave(4 // groups, 0))
    torch.testing.assert_close(pool(shared), pool(copies))
    torch.testing.assert_close(pool.attention(shared), pool.attention(copies))


@every_pooling
def test_masking_instances_equals_removing_them(name: str) -> None:
    pool, x, kept = pooling(name), embeddings(), some_kept()
    masked, attention = pool(instances(x, kept=kept)), pool.attention(instances(x, kept=kept))
    assert attention[~kept].count_nonzero() == 0
    for k, seed in enumerate(SEEDS):
        sizes = [int(part.sum()) for part in kept[k].split(SIZES)]
        removed = instances(x[k : k + 1, kept[k]], sizes)
        alone = pooling(name, [seed])
        torch.testing.assert_close(masked[k], alone(removed)[0])
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
    assert pool(instances(x, [1])).isfinite().all()


@every_pooling
def test_a_gradient_reaches_everything_and_stays_with_its_member(name: str) -> None:
    pool, x = pooling(name), embeddings().requires_grad_()
    pool(instances(x, kept=some_kept()))[1].square().sum().backward()
    for parameter_name, parameter in [("x", x), *pool.named_parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad[[0, 2]].count_nonzero() == 0
        assert parameter.grad[1].count_nonzero() > 0, parameter_name


@every_pooling
def test_bfloat16_is_close_to_float32(name: str) -> None:
    pool, x = pooling(name), embeddings().bfloat16()
    half = pool(instances(x))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, pool(instances(x.float())), rtol=0.05, atol=0.05)


# Each against its formula.


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_the_masked_softmax_is_the_softmax_of_each_bag(sizes: list[int], seed: int) -> None:
    scores = 20 * torch.randn(2, sum(sizes), generator=torch.Generator().manual_seed(seed))
    weights = instances(torch.zeros(1, sum(sizes), 1), sizes, member_count=2).softmax(scores)
    expected = torch.stack(
        [torch.block_diag(*(part.softmax(0)[None] for part in row.split(sizes))) for row in scores]
    )
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("name", ["attention", "gated-attention"])
def test_attention_with_equal_scores_is_the_mean(name: str) -> None:
    zero_start = dataclasses.replace(CONFIG, zero_start=True)
    pool = POOLINGS[name](WIDTH, zero_start, generators(SEEDS))
    bags = instances(embeddings())
    torch.testing.assert_close(pool(bags), pooling("mean")(bags))


def test_mean_is_the_mean_of_each_bag() -> None:
    x = embeddings()
    expected = torch.stack([part.mean(1) for part in x.split(SIZES, 1)], 1)
    torch.testing.assert_close(pooling("mean")(instances(x)), expected)


@pytest.mark.parametrize("name", ["attention", "gated-attention"])
def test_attention_is_the_formula_of_ilse(name: str) -> None:
    pool, x = pooling(name), embeddings()
    assert isinstance(pool, Attention)
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            hidden = torch.tanh(bag @ pool.hidden.weight[k] + pool.hidden.bias[k])
            if isinstance(pool, GatedAttention):
                hidden = hidden * torch.sigmoid(bag @ pool.gate.weight[k] + pool.gate.bias[k])
            weights = (hidden @ pool.score.weight[k]).softmax(0)  # (n, 1)
            torch.testing.assert_close(pool(instances(x))[k, b], (weights * bag).sum(0))


def test_top_k_is_a_loop_over_the_highest_scores() -> None:
    pool, x = pooling("top-k"), embeddings()
    assert isinstance(pool, TopK)
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            scores = (bag @ pool.score.weight[k])[:, 0]
            best = scores.topk(min(CONFIG.top_k, len(bag))).indices
            expected = scores[best].softmax(0) @ bag[best]
            torch.testing.assert_close(pool(instances(x))[k, b], expected)


def test_max_is_the_highest_of_each_column() -> None:
    pool, x = pooling("max"), embeddings()
    assert isinstance(pool, Max)
    expected = torch.stack([part.amax(1) for part in x.split(SIZES, 1)], 1)
    assert torch.equal(pool(instances(x)), expected)
    bag = x[0, : SIZES[0]]
    shares = torch.bincount(bag.argmax(0), minlength=SIZES[0]) / WIDTH
    torch.testing.assert_close(pool.attention(instances(x))[0, : SIZES[0]], shares)


def test_noisy_and_is_the_formula_of_kraus() -> None:
    pool, x = pooling("noisy-and"), embeddings()
    assert isinstance(pool, NoisyAnd)
    with torch.no_grad():
        pool.threshold += torch.linspace(-0.3, 0.3, pool.threshold.numel()).view_as(pool.threshold)
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            p = torch.sigmoid(bag @ pool.detect.weight[k] + pool.detect.bias[k]).mean(0)
            low, high = -10 * pool.threshold[k, 0], 10 * (1 - pool.threshold[k, 0])
            top = torch.sigmoid(10 * (p - pool.threshold[k, 0])) - torch.sigmoid(low)
            expected = top / (torch.sigmoid(high) - torch.sigmoid(low))
            torch.testing.assert_close(pool(instances(x))[k, b], expected)


def test_the_transformer_is_that_of_torch() -> None:
    pool, x = pooling("transformer"), embeddings()
    assert isinstance(pool, Transformer)
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            torch.testing.assert_close(pool(instances(x))[k, b], transformed(pool, k, bag))


def transformed(pool: Transformer, k: int, bag: Tensor) -> Tensor:
    """Member k's output for one bag (n, D), by torch's own attention."""
    layer = nn.MultiheadAttention(pool.width, pool.HEADS, batch_first=True)
    state = {
        "in_proj_weight": pool.query_key_value.weight[k].T,
        "in_proj_bias": pool.query_key_value.bias[k, 0],
        "out_proj.weight": pool.mix.weight[k].T,
        "out_proj.bias": pool.mix.bias[k, 0],
    }
    layer.load_state_dict(state)
    h = bag @ pool.embed.weight[k] + pool.embed.bias[k]
    normal = functional.layer_norm(h, h.shape[-1:])[None]
    h = h + layer(normal, normal, normal)[0][0]
    wide = torch.relu(functional.layer_norm(h, h.shape[-1:]) @ pool.widen.weight[k] + pool.widen.bias[k])
    h = h + wide @ pool.narrow.weight[k] + pool.narrow.bias[k]
    weights = (h @ pool.score.weight[k]).softmax(0)
    return (weights * h).sum(0)


# Memory and other devices.


def results(name: str, x: Tensor, sizes: list[int], kept: Tensor | None) -> list[Tensor]:
    """Return the pooled bags, the attention and the gradients of a pooling."""
    pool, x = pooling(name), x.clone().requires_grad_()
    bags = instances(x, sizes, kept)
    pooled = pool(bags)
    learned = [x, *pool.parameters()]
    return [pooled, pool.attention(bags), *torch.autograd.grad(pooled.square().sum(), learned)]


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
    monkeypatch.setattr(poolings, "WHOLE", 0)
    monkeypatch.setattr(poolings, "BLOCK", 8)
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
        pool(bags).sum().backward()
        pool.attention(bags)
    return seen.elements


@every_pooling
def test_memory_grows_no_faster_than_the_number_of_bags(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with its square, as the matrix of bags and instances does."""
    monkeypatch.setattr(poolings, "WHOLE", 0)
    monkeypatch.setattr(poolings, "BLOCK", 100)
    assert largest(40, name) <= 2.05 * largest(20, name)


def test_sums_of_bags_are_added_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit as index_add does it on a CPU, which on CUDA adds in a random order."""
    values = torch.randn(3, sum(SIZES), 5)
    bags = instances(embeddings())
    expected = torch.zeros(3, len(SIZES), 5).index_add(1, bags.bag, values)
    assert torch.equal(bags.bag_sums(values), expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(bags.bag_sums(values), expected)


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
        monkeypatch.setattr(poolings, "WHOLE", 0)
        monkeypatch.setattr(poolings, "BLOCK", 8)
    with FakeTensorMode():
        pool = pooling(name)
        move(pool, "cuda")
        bags = on("cuda", SIZES)
        assert pool(bags).device == pool.attention(bags).device == torch.device("cuda", 0)
        move(pool, "cpu")
        if any(True for _ in pool.parameters()):
            with pytest.raises(RuntimeError, match="cpu"):
                pool(bags)
