"""The poolings by weighted sum against their formulas, bag by bag."""

import dataclasses

import pytest
import torch
from support.small_bags import CONFIG, SEEDS, SIZES, WIDTH, embeddings, instances, pooling

from mil_toolkit.model.layers import generators
from mil_toolkit.model.poolings import POOLINGS
from mil_toolkit.model.weighted import Attention, GatedAttention, TopK


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
