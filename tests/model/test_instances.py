"""Sums and softmax of packed bags against each bag alone."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_bags import SIZES, embeddings, instances, outputs, pooling

from mil_toolkit.model import instances as instances_module
from mil_toolkit.model.poolings import POOLINGS


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_the_masked_softmax_is_the_softmax_of_each_bag(sizes: list[int], seed: int) -> None:
    scores = 20 * torch.randn(2, sum(sizes), generator=torch.Generator().manual_seed(seed))
    weights = instances(torch.zeros(1, sum(sizes), 1), sizes, member_count=2).softmax(scores)
    expected = torch.stack(
        [torch.block_diag(*(part.softmax(0)[None] for part in row.split(sizes))) for row in scores]
    )
    torch.testing.assert_close(weights, expected)


def test_sums_of_bags_are_added_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit as index_add does it on a CPU, which on CUDA adds in a random order."""
    values = torch.randn(3, sum(SIZES), 5)
    bags = instances(embeddings())
    expected = torch.zeros(3, len(SIZES), 5).index_add(1, bags.bag, values)
    assert torch.equal(bags.bag_sums(values), expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(bags.bag_sums(values), expected)


@pytest.mark.parametrize("pooling_name", POOLINGS)
@pytest.mark.parametrize("whole", [instances_module.WHOLE, 0])
def test_pooling_leaves_no_reference_cycle(
    pooling_name: str, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cycle would keep the embeddings of many batches until the collector happens to run."""
    monkeypatch.setattr(instances_module, "WHOLE", whole)
    gc.collect()
    gc.disable()
    try:
        bags = instances(embeddings())
        watched = weakref.ref(bags)
        outputs(pooling(pooling_name), bags)
        del bags
        assert watched() is None
    finally:
        gc.enable()
